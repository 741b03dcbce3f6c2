"""Photographs as training tuples: a crop, what a camera makes of it, and the crop in every style."""

import json
import multiprocessing
import random
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from .styles import STYLES, Picture

SIDE = 256
"""Side of a crop in pixels. The networks see parts of it, cut at multiples of 32."""
LARGEST = 1000
"""Shorter side to which larger photographs are reduced when they are read: four crops' worth of detail is enough."""


@dataclass(frozen=True)
class Photograph:
    picture: Picture
    weight: float


def photographs(folder: Path, held_out: bool = False) -> list[Photograph]:
    """The pictures that `pack_train.photos fetch` put into `folder`, those for training or those held out."""
    found = []
    for entry in json.loads((folder / "manifest.json").read_text())["pictures"]:
        if entry["held_out"] != held_out:
            continue
        picture = cv2.imread(str(folder / entry["file"]), cv2.IMREAD_COLOR)
        if picture is None:
            raise SystemExit(f"error: {folder / entry['file']} cannot be read\nhint: delete it and fetch again")
        shrink = LARGEST / min(picture.shape[:2])
        if shrink < 1:
            picture = cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        found.append(Photograph(np.ascontiguousarray(picture[..., ::-1]), float(entry.get("weight", 1))))
    return found


def crop(picture: Picture, chance: random.Random, side: int = SIDE) -> Picture:
    """A square part of a photograph, in other light now and then."""
    height, width = picture.shape[:2]
    largest = min(height, width)
    smallest = min(largest, 200)
    size = int(smallest + (largest - smallest) * chance.random() ** 0.8)
    top, left = chance.randrange(height - size + 1), chance.randrange(width - size + 1)
    part = picture[top : top + size, left : left + size]
    part = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA if size > side else cv2.INTER_CUBIC)
    if chance.random() < 0.5:
        part = part[:, ::-1]
    light = np.clip(part.astype(np.float32) / 255, 0, 1)
    if chance.random() < 0.6:
        light = light ** chance.uniform(0.7, 1.5)
        grey = light.mean(2, keepdims=True)
        light = grey + (light - grey) * chance.uniform(0.6, 1.35)
        light = (light - 0.5) * chance.uniform(0.75, 1.15) + 0.5 + chance.uniform(-0.08, 0.08)
        light = light * np.array([chance.uniform(0.88, 1.1) for _ in range(3)], np.float32)
    if chance.random() < 0.2:
        light = cv2.GaussianBlur(light, (0, 0), chance.uniform(0.4, 1.2))
    return (np.clip(light, 0, 1) * 255 + 0.5).astype(np.uint8)


def camera(picture: Picture, chance: np.random.Generator, frames: int = 1) -> list[Picture]:
    """Frames of the same picture as a webcam gives them: with noise, and through JPEG every other time.

    The networks learn to give for it what the clean picture gives, so that noise does not flicker in the output.
    """
    deviation = chance.uniform(0.5, 5)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(chance.integers(60, 95))] if chance.random() < 0.5 else None
    seen = []
    for _ in range(frames):
        noisy = np.clip(picture + chance.standard_normal(picture.shape, np.float32) * deviation, 0, 255).astype(np.uint8)
        seen.append(cv2.imdecode(cv2.imencode(".jpg", noisy, quality)[1], cv2.IMREAD_COLOR) if quality else noisy)
    return seen


def _work(worker: int, workers: int, photos: list[Photograph], path: str, count: int, seed: int) -> None:
    out = np.load(path, mmap_mode="r+")
    weights = [photo.weight for photo in photos]
    for index in range(worker, count, workers):
        chance = random.Random(seed * 1_000_003 + index)
        # Every photograph once, then by weight.
        photo = photos[index] if index < len(photos) else chance.choices(photos, weights)[0]
        clean = crop(photo.picture, chance)
        out[index, 0] = camera(clean, np.random.default_rng(chance.getrandbits(32)))[0]
        for place, styliser in enumerate(STYLES.values()):
            out[index, 1 + place] = styliser(clean)
    out.flush()


def make(folder: Path, path: Path, count: int, seed: int, workers: int) -> None:
    """Writes `uint8[count, 1 + styles, 256, 256, 3]` to `path`: the camera's picture, then the styles in their order."""
    photos = photographs(folder)
    print(f"{len(photos)} photographs, {count} tuples of {1 + len(STYLES)} pictures", flush=True)
    part = path.with_suffix(".part")
    np.lib.format.open_memmap(part, "w+", np.uint8, (count, 1 + len(STYLES), SIDE, SIDE, 3)).flush()
    processes = [
        multiprocessing.Process(target=_work, args=(worker, workers, photos, str(part), count, seed))
        for worker in range(workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("error: the tuples could not be made")
    part.rename(path)
