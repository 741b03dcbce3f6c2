"""Finds faces: the local binary patterns of a detector that a library carries."""

import cv2
import numpy as np


class Detector:
    """OpenCV's frontal Haar cascades."""

    def __init__(self) -> None:
        folder = cv2.data.haarcascades
        names = ("haarcascade_frontalface_default.xml", "haarcascade_frontalface_alt2.xml")
        self.cascades = [cv2.CascadeClassifier(folder + name) for name in names]

    def finds(self, picture: np.ndarray) -> bool:
        """Whether there is a face of at least an eighth of the picture's side."""
        grey = cv2.equalizeHist(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
        least = min(grey.shape) // 8
        return any(len(cascade.detectMultiScale(grey, 1.05, 3, minSize=(least, least))) > 0 for cascade in self.cascades)
