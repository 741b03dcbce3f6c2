"""What the pack is judged by: photographs and a clip that were never trained on."""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

SIDE = 256
CLIP = (20, 21, 22, 23, 24, 60, 61, 110)
"""Frames taken of a clip: a run for what moves, and others for what they show."""


def square(picture: np.ndarray, top: float = 0.5, share: float = 1.0) -> np.ndarray:
    """A square of `share` of the shorter side, `top` of the way down, as RGB of 256 pixels a side."""
    height, width = picture.shape[:2]
    side = int(min(height, width) * share)
    down, right = int((height - side) * top), (width - side) // 2
    part = picture[down : down + side, right : right + side]
    part = cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_AREA if side > SIDE else cv2.INTER_CUBIC)
    return np.ascontiguousarray(part[..., ::-1])


@dataclass(frozen=True)
class HeldOut:
    pictures: list[np.ndarray]
    """Everything that fidelity is measured on: photographs, faces among them, and two frames of the clip."""
    faces: list[np.ndarray]
    """Portraits, the head as large as a webcam has it."""
    clip: list[np.ndarray]
    """Frames that follow each other."""

    @staticmethod
    def load(folder: Path) -> "HeldOut":
        pictures: list[np.ndarray] = []
        faces: list[np.ndarray] = []
        clip: list[np.ndarray] = []
        for entry in json.loads((folder / "manifest.json").read_text())["pictures"]:
            if not entry["held_out"]:
                continue
            path = folder / entry["file"]
            if path.suffix == ".mp4":
                frames = _frames(path, CLIP)
                clip += [square(frame) for frame in frames[:5]]
                pictures += [clip[0], square(frames[-1])]
                continue
            picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if entry["kind"] == "face":
                # From the waist up, the head alone, and between.
                faces += [square(picture, 0.1, share) for share in (1.0, 0.75, 0.6)]
                pictures.append(faces[-2])
            else:
                pictures.append(square(picture))
        return HeldOut(pictures, faces, clip)


def _frames(path: Path, wanted: tuple[int, ...]) -> list[np.ndarray]:
    clip = cv2.VideoCapture(str(path))
    found = []
    for index in range(max(wanted) + 1):
        fine, frame = clip.read()
        if not fine:
            break
        if index in wanted:
            found.append(frame)
    return found
