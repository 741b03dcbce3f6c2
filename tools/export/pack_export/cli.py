"""From arguments to an exit code."""

import os
import sys
import warnings

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
warnings.filterwarnings("ignore")

from . import options  # noqa: E402
from .failure import FAILED, Failure  # noqa: E402


def main(arguments=None):
    """Makes a pack as the arguments say; errors go to the standard error as one line and a hint."""
    try:
        parsed = options.parse(arguments)
        # Libraries take seconds to load; a wrong option should not.
        from . import pack

        pack.make(parsed)
    except Failure as failure:
        print(f"error: {failure.what}", file=sys.stderr)
        if failure.hint:
            print(f"hint: {failure.hint}", file=sys.stderr)
        return failure.code
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return FAILED
    except MemoryError:
        print("error: out of memory\nhint: a full-size model needs about 16 GB", file=sys.stderr)
        return FAILED
    print(parsed.out)
    return 0

