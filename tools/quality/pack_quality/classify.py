"""Tells styles apart: a small network on statistics of a picture, trained on the stylisers' pictures of training photographs.

Half of these are worn: a little softer, paler or noisier than the styliser made them. A person names a style in a faded print or a
soft screen; a classifier that has only seen flawless ones tells flawless from worn.
"""

import cv2
import numpy as np
import torch
from torch import nn

STEPS = 1000


def worn(picture: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """The picture as a soft lens, a pale print, a camera's noise and JPEG leave it: each by a little."""
    light = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), chance.uniform(0.3, 1.1))
    light = (light - 128) * chance.uniform(0.85, 1.1) + 128 + chance.uniform(-10, 10)
    light += chance.standard_normal(picture.shape, np.float32) * chance.uniform(0, 3)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(chance.integers(60, 98))]
    return cv2.imdecode(cv2.imencode(".jpg", np.clip(light, 0, 255).astype(np.uint8), quality)[1], cv2.IMREAD_COLOR)


def features(picture: np.ndarray) -> np.ndarray:
    """Colours, slopes and the spectrum of 8x8 blocks: what a style is, whatever the picture shows."""
    small = cv2.resize(picture, (128, 128), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32)
    # An odd number of bins for the colours: grey is in the middle of one. On an edge, as with six, the least cast made of a black-and-white
    # picture another one.
    colours = np.histogramdd(lab.reshape(-1, 3), bins=(6, 7, 7), range=((0, 256),) * 3)[0].ravel() / (128 * 128)
    moments = np.concatenate([lab.mean((0, 1)), lab.std((0, 1))]) / 128
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    slopes = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    steepness = np.histogram(slopes, bins=12, range=(0, 3))[0] / slopes.size
    height, width = (side // 8 * 8 for side in grey.shape)
    blocks = grey[:height, :width].reshape(height // 8, 8, width // 8, 8).transpose(0, 2, 1, 3).reshape(-1, 8, 8)
    basis = np.array([[np.cos(np.pi * (2 * x + 1) * k / 16) for x in range(8)] for k in range(8)], np.float32)
    spectrum = np.log(np.abs(basis @ blocks @ basis.T).mean(0) + 1e-3).ravel()
    # The mean block tells textures that are locked to the screen.
    locked = (blocks.mean(0) - blocks.mean()).ravel() * 4
    return np.concatenate([np.sqrt(colours) * 2, moments, np.sqrt(steepness) * 2, spectrum * 0.5, locked]).astype(np.float32)


class Classifier:
    def __init__(self, pictures: list[np.ndarray], styles: list[int], names: list[str], seed: int = 1) -> None:
        torch.manual_seed(seed)
        self.names = names
        x = torch.from_numpy(np.stack([features(picture) for picture in pictures]))
        y = torch.tensor(styles)
        self.mean, self.deviation = x.mean(0), x.std(0) + 0.05
        self.network = nn.Sequential(nn.Linear(x.shape[1], 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, len(names)))
        optimiser = torch.optim.AdamW(self.network.parameters(), 2e-3, weight_decay=0.05)
        x = (x - self.mean) / self.deviation
        for _ in range(STEPS):
            rows = torch.randint(len(x), (256,))
            loss = nn.functional.cross_entropy(self.network(x[rows] + 0.1 * torch.randn(256, x.shape[1])), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        self.network.eval()

    @torch.no_grad()
    def scores(self, picture: np.ndarray) -> np.ndarray:
        """Log-probability of every style."""
        x = (torch.from_numpy(features(picture)) - self.mean) / self.deviation
        return torch.log_softmax(self.network(x[None])[0], 0).numpy()

    def style(self, pictures: list[np.ndarray]) -> str:
        """The style that all of them together look like."""
        return self.names[int(np.sum([self.scores(picture) for picture in pictures], 0).argmax())]
