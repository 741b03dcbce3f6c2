"""Finds faces, with the Haar cascades that OpenCV carries."""

import cv2
import numpy as np


class Detector:
    """OpenCV's frontal cascades, either of which may find a face."""

    def __init__(self) -> None:
        folder = cv2.data.haarcascades
        names = ("haarcascade_frontalface_default.xml", "haarcascade_frontalface_alt2.xml")
        self.cascades = [cv2.CascadeClassifier(folder + name) for name in names]

    def largest(self, picture: np.ndarray) -> tuple[int, int, int] | None:
        """Left, top and side of the largest face of at least an eighth of the picture's side, if there is one."""
        grey = cv2.equalizeHist(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
        least = min(grey.shape) // 8
        found = [face for cascade in self.cascades for face in cascade.detectMultiScale(grey, 1.05, 3, minSize=(least, least))]
        if not found:
            return None
        left, top, side, _ = max(found, key=lambda face: int(face[2]))
        return int(left), int(top), int(side)

    def finds_again(self, face: tuple[int, int, int], picture: np.ndarray) -> bool:
        """Whether the largest face of `picture` lies where `face` was: their squares overlap by more than a third."""
        other = self.largest(picture)
        return other is not None and overlap(face, other) > 1 / 3


def overlap(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
    """Of two squares, each left, top and side: what they share by what they cover together."""
    wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    high = min(a[1] + a[2], b[1] + b[2]) - max(a[1], b[1])
    shared = max(0, wide) * max(0, high)
    return shared / (a[2] ** 2 + b[2] ** 2 - shared)
