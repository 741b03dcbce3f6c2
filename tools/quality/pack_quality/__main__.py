"""Measures a pack and draws its contact sheets.

    python -m pack_quality --model models/default --data DIR --out out/quality
"""

import argparse
import json
import os
from pathlib import Path

from . import sheets
from .bar import table
from .held_out import HeldOut
from .measure import measure
from .stream import Stream


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pack_quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the pack")
    parser.add_argument("--data", type=Path, required=True, help="what `python -m pack_train.photos` fetched")
    parser.add_argument("--out", type=Path, default=Path("out/quality"), help="folder for the sheets and figures (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="fidelity of one and two steps only")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="(default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    asked.out.mkdir(parents=True, exist_ok=True)
    held_out = HeldOut.load(asked.data)
    stream = Stream(asked.model, asked.threads)
    figures = measure(stream, held_out, asked.data, asked.quick)
    print(table(figures), flush=True)
    part = asked.out / "figures.part"
    part.write_text(json.dumps(figures, indent=1) + "\n")
    part.rename(asked.out / "figures.json")
    sheets.draw(stream, held_out, figures, asked.out)


if __name__ == "__main__":
    main()
