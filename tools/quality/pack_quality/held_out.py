"""What the pack is judged by: photographs and clips that were never trained on."""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from . import faces

SIDE = 256
PICTURES = 10
"""How many fidelity is measured on, of every kind about as many."""
RUN = 3
"""Frames of a clip that follow each other."""
HEADS = (2.2, 3.2)
"""Sides of the square around a face, in faces: as large as a webcam has it, and from further away."""


@dataclass(frozen=True)
class HeldOut:
    pictures: list[np.ndarray]
    """Everything that fidelity is measured on: photographs, portraits among them, and a frame of every clip."""
    faces: list[np.ndarray]
    """Portraits in which the detector finds a face."""
    clips: list[list[np.ndarray]]
    """Frames that follow each other."""

    @staticmethod
    def load(folder: Path) -> "HeldOut":
        by_kind: dict[str, list[np.ndarray]] = defaultdict(list)
        portraits: list[np.ndarray] = []
        clips: list[list[np.ndarray]] = []
        detector = faces.Detector()
        for entry in json.loads((folder / "manifest.json").read_text())["pictures"]:
            if not entry["held_out"]:
                continue
            path = folder / entry["file"]
            if entry["kind"].startswith("clip"):
                clips.append([square(frame) for frame in frames(path)])
                by_kind[entry["kind"]].append(clips[-1][0])
                continue
            picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if picture is None:
                raise SystemExit(f"error: {path} cannot be read\nhint: delete it and the manifest.json beside photos/, and fetch again")
            shots = around_face(picture, detector) if entry["kind"] == "face" else []
            portraits += shots
            by_kind[entry["kind"]].append(shots[-1] if shots else square(picture))
        return HeldOut(list(in_turn(by_kind))[:PICTURES], portraits, clips)


def in_turn(by_kind: dict[str, list[np.ndarray]]) -> Iterator[np.ndarray]:
    """One picture of every kind, faces first, then the next of every kind."""
    ordered = [by_kind[kind] for kind in sorted(by_kind, key=lambda kind: "face" not in kind)]
    for place in range(max(map(len, ordered), default=0)):
        for pictures in ordered:
            if place < len(pictures):
                yield pictures[place]


def square(picture: np.ndarray) -> np.ndarray:
    """The middle of a picture as OpenCV reads it, as RGB of 256 pixels a side."""
    height, width = picture.shape[:2]
    side = min(height, width)
    return part(picture, (height - side) // 2, (width - side) // 2, side)


def part(picture: np.ndarray, top: int, left: int, side: int) -> np.ndarray:
    cut = picture[top : top + side, left : left + side]
    cut = cv2.resize(cut, (SIDE, SIDE), interpolation=cv2.INTER_AREA if side > SIDE else cv2.INTER_CUBIC)
    return np.ascontiguousarray(cut[..., ::-1])


def around_face(picture: np.ndarray, detector: faces.Detector) -> list[np.ndarray]:
    """Squares around the largest face; those of them in which it is found again."""
    shrink = min(1.0, 800 / max(picture.shape[:2]))
    small = cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    found = detector.largest(np.ascontiguousarray(small[..., ::-1]))
    if found is None:
        return []
    left, top, size = (int(value / shrink) for value in found)
    shots = []
    for heads in HEADS:
        side = min(int(size * heads), *picture.shape[:2])
        down = min(max(0, top + size // 2 - side // 2), picture.shape[0] - side)
        right = min(max(0, left + size // 2 - side // 2), picture.shape[1] - side)
        shots.append(part(picture, down, right, side))
    return [shot for shot in shots if detector.largest(shot) is not None]


def frames(path: Path, start: int = 10) -> list[np.ndarray]:
    """A run of frames, as OpenCV reads them."""
    clip = cv2.VideoCapture(str(path))
    found = []
    for index in range(start + RUN):
        fine, frame = clip.read()
        if not fine:
            break
        if index >= start:
            found.append(frame)
    if len(found) < RUN:
        raise SystemExit(f"error: {path} has {len(found)} frames that can be read, {RUN} are needed")
    return found
