"""Contact sheets: what the figures mean to an eye."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pack_train.styles import STYLES

from . import metrics
from .held_out import HeldOut
from .measure import FREER, Steps, repaint
from .stream import Stream, TIndex

CELL = 144
COLUMNS = 10
"""Styles beside each other; the rest follows below."""
ROWS = 5
"""Held-out pictures shown of each style, one of each kind."""
FAILURES = 10


def labelled(picture: np.ndarray, text: str) -> np.ndarray:
    """One cell, with its name in a corner."""
    cell = cv2.resize(picture, (CELL, CELL), interpolation=cv2.INTER_AREA)
    if text:
        cv2.rectangle(cell, (0, 0), (7 * len(text) + 6, 15), (0, 0, 0), -1)
        cv2.putText(cell, text, (3, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return cell


def grid(cells: list[np.ndarray], columns: int) -> np.ndarray:
    blank = [np.zeros_like(cells[0])] * (-len(cells) % columns)
    cells = cells + blank
    return np.vstack([np.hstack(cells[start : start + columns]) for start in range(0, len(cells), columns)])


def save(sheet: np.ndarray, path: Path) -> None:
    cv2.imwrite(str(path), sheet[..., ::-1])


def paint(stream: Stream, pictures: list[np.ndarray], at: TIndex) -> dict[str, list[np.ndarray]]:
    """The input, and it in every style."""
    return {"input": pictures} | {style: repaint(stream, pictures, style, at) for style in STYLES}


def contact(painted: dict[str, list[np.ndarray]], names: bool = True) -> np.ndarray:
    """A row for every picture, a column for every style."""
    columns = [
        np.vstack([labelled(picture, name if names and not row else "") for row, picture in enumerate(pictures)])
        for name, pictures in painted.items()
    ]
    return grid(columns, COLUMNS + 1)


def failures(stream: Stream, held_out: HeldOut, figures: dict[str, Any], at: TIndex) -> np.ndarray:
    """The pictures that are furthest from what they should be: the photograph, what came out, what was wanted."""
    one = figures["one"]
    cells = []
    for style in sorted(one, key=lambda style: one[style]["psnr"])[:FAILURES]:
        picture = held_out.pictures[one[style]["worst"]]
        (painted,) = repaint(stream, [picture], style, at)
        wanted = STYLES[style](picture)
        text = f"{style} {metrics.psnr(painted, wanted):.1f} dB"
        cells.append(np.vstack([labelled(picture, "input"), labelled(painted, text), labelled(wanted, "wanted")]))
    return grid(cells, FAILURES)


def draw(stream: Stream, held_out: HeldOut, figures: dict[str, Any], steps: Steps, folder: Path) -> None:
    pictures = held_out.pictures[:ROWS]
    once = paint(stream, pictures, steps.one)
    save(contact(once), folder / "sheet.png")
    save(contact(once, names=False), folder / "sheet-without-names.png")
    save(contact(paint(stream, pictures, steps.two)), folder / "two-steps.png")
    save(contact(paint(stream, pictures, FREER)), folder / "index-32.png")
    save(failures(stream, held_out, figures, steps.one), folder / "failures.png")
