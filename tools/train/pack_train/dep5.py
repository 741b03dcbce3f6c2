"""Reads Debian's copyright files: who made a picture of a package, and under what licence."""

import fnmatch
import re
from dataclasses import dataclass
from pathlib import PurePosixPath


TELLING = 8
"""Letters from which on a name alone tells which picture is meant."""


@dataclass(frozen=True)
class Stated:
    """What one paragraph says of the files that it names."""

    patterns: tuple[str, ...]
    licence: str
    holders: str

    def names(self, path: str) -> bool:
        """Whether the paragraph names a picture, which an installed package may keep elsewhere and in another format.

        So the name without the ending is compared, and the folder that holds it where the pattern leaves the name open or short.
        `*` alone, which stands for the whole package, names nothing.
        """
        folder, name = PurePosixPath(path).with_suffix("").parts[-2:]
        for pattern in self.patterns:
            wanted = PurePosixPath(re.sub(r"\.[a-z]+$", "", pattern)).parts
            if len(wanted) > 1 and fnmatch.fnmatchcase(folder, wanted[-2]) and fnmatch.fnmatchcase(name, wanted[-1]):
                return True
            if name == wanted[-1] and len(name) >= TELLING:
                return True
        return False


def paragraphs(text: str) -> list[Stated]:
    """The `Files:` paragraphs of a machine-readable copyright file, in their order."""
    found = []
    for block in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if line[:1].isspace():
                fields[name] = fields.get(name, "") + "\n" + line.strip()
            elif ":" in line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if "Files" in fields and "License" in fields:
            licence = fields["License"].splitlines()[0] if fields["License"] else ""
            holders = "; ".join(filter(None, (_name(line) for line in fields.get("Copyright", "").splitlines())))
            found.append(Stated(tuple(fields["Files"].split()), licence, holders))
    return found


def _name(line: str) -> str:
    """The holder in a line of `Copyright:`, without years, signs and addresses."""
    line = re.sub(r"<[^>]*>|©|\([cC]\)|[Cc]opyright:?", " ", line)
    line = re.sub(r"\b(19|20)\d\d\b[-–, .]*|, *(19|20)\d\d *$", " ", line)
    return " ".join(line.split()).strip(" ,.;´")


def stated(path: str, told: list[Stated]) -> Stated | None:
    """What the last paragraph that names the picture says; `None` where only the whole package is spoken of."""
    named = [paragraph for paragraph in told if paragraph.names(path)]
    return named[-1] if named else None
