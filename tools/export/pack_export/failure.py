"""What goes wrong, as one line and a hint. Exit codes are those of the binary."""

FAILED, USAGE, MISSING = 1, 2, 3


class Failure(Exception):
    """What and where, the next command, and the exit code."""

    def __init__(self, what, hint=None, code=USAGE):
        super().__init__(what)
        self.what, self.hint, self.code = what, hint, code


def one_line(error, limit=300):
    """A library's own message, which may have many lines."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
