"""Measures a pack and draws its contact sheets.

    python -m pack_quality --model models/default --data DIR --out out/quality
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from . import bar, sheets
from .held_out import HeldOut
from .measure import Steps, measure
from .stream import Stream, TIndex


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="quality.sh", description="Measures a pack and draws its contact sheets.")
    parser.add_argument("--model", type=Path, required=True, help="the pack")
    parser.add_argument("--data", type=Path, required=True, help="what `python -m pack_train.photos fetch` gave")
    parser.add_argument("--out", type=Path, default=Path("out/quality"), help="folder for sheets and figures (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file (default: figures.json in the folder)")
    for name, at in Steps().listed().items():
        told = f"t-index list of {name.replace('_', ' ')} step(s), of another table than that of 50 times as 94,98@100 (default: {at})"
        parser.add_argument(f"--{name.replace('_', '-')}", type=TIndex.parse, default=at, metavar="INDICES", help=told)
    parser.add_argument("--quick", action="store_true", help="only what needs no classifier: fidelity, edges and flicker")
    parser.add_argument("--strict", action="store_true", help="fail where a figure misses what is asked")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="(default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    began = time.monotonic()
    asked.out.mkdir(parents=True, exist_ok=True)
    held_out = HeldOut.load(asked.data)
    stream = Stream(asked.model, asked.threads)
    steps = Steps(**{name: getattr(asked, name) for name in Steps().listed()})
    figures = measure(stream, held_out, asked.data, steps, asked.quick)
    print(bar.table(figures), flush=True)
    write(asked.json or asked.out / "figures.json", json.dumps(figures, indent=1) + "\n")
    write(asked.out / "figures.md", bar.table(figures) + "\n")
    sheets.draw(stream, held_out, figures, steps, asked.out)
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    if asked.strict and not bar.met(figures):
        raise SystemExit(1)


def write(path: Path, text: str) -> None:
    """Replaces the file as a whole, so that nobody reads half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.rename(path)


if __name__ == "__main__":
    main()
