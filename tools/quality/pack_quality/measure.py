"""Every figure of a pack."""

import random
from pathlib import Path
from typing import Any

import numpy as np

from pack_train.captions import PROMPTS
from pack_train.styles import STYLES
from pack_train.tuples import crop, photographs

from . import metrics
from .classify import Classifier
from .faces import Detector
from .freetext import PROMPTS as FREE_TEXT
from .held_out import HeldOut
from .stream import Stream

ONE, TWO = (47,), (47, 49)
FREER = (32,)
STRENGTHS = ((49,), (47,), (45,), (40,), (32,), (25,))
GUIDANCES = (1.0, 1.3, 1.6, 2.0)
SIGMA = 2.0
"""Of the camera's noise on the still scene, of 255."""
TRAINING = 200
"""Crops of training photographs that the classifier learns from, each in every style."""
DISSOLVES = frozenset(
    ("pixel", "gameboy", "embroidery", "stained", "halftone", "engraving", "matrix", "vangogh", "crayon", "oil", "watercolor")
)
"""Styles that put patches, dots or strokes in the place of the edges: theirs are not asked for."""

Figures = dict[str, Any]


def batches(pictures: list[np.ndarray], size: int = 8) -> list[np.ndarray]:
    return [np.stack(pictures[start : start + size]) for start in range(0, len(pictures), size)]


def repaint(stream: Stream, pictures: list[np.ndarray], style: str, indices: tuple[int, ...], **more: Any) -> list[np.ndarray]:
    prompt = PROMPTS.get(style, style)
    return [painted for batch in batches(pictures) for painted in stream.repaint(batch, prompt, indices, **more)]


def train_classifier(data: Path) -> Classifier:
    photos = photographs(data)
    chance = random.Random(5)
    pictures, styles = [], []
    for index in range(TRAINING):
        clean = crop(photos[index * 7 % len(photos)].picture, chance)
        for place, styliser in enumerate(STYLES.values()):
            pictures.append(styliser(clean))
            styles.append(place)
    return Classifier(pictures, styles, list(STYLES))


def fidelity(stream: Stream, held_out: HeldOut, indices: tuple[int, ...], classifier: Classifier | None) -> Figures:
    """Per style: dB to the styliser's own picture, edges kept, flicker, and how often it is taken for itself."""
    found: dict[str, Figures] = {}
    for style, styliser in STYLES.items():
        painted = repaint(stream, held_out.pictures, style, indices)
        wanted = [styliser(picture) for picture in held_out.pictures]
        figures: Figures = {
            "psnr": float(np.mean([metrics.psnr(a, b) for a, b in zip(painted, wanted, strict=True)])),
            "worst": int(np.argmin([metrics.psnr(a, b) for a, b in zip(painted, wanted, strict=True)])),
            "edge_f1": float(np.mean([metrics.edge_f1(a, b) for a, b in zip(held_out.pictures, painted, strict=True)])),
        }
        still = [metrics.noisy(picture, SIGMA, seed) for picture in held_out.pictures[:4] for seed in (1, 2)]
        pairs = repaint(stream, still, style, indices)
        figures["flicker"] = float(np.mean([metrics.apart(a, b) for a, b in zip(pairs[::2], pairs[1::2], strict=True)]))
        if classifier:
            figures["told"] = float(np.mean([classifier.style([picture]) == style for picture in painted]))
        found[style] = figures
    return found


def steadiness(stream: Stream, held_out: HeldOut) -> Figures:
    """Warp error over the clip, of the pack and of the stylisers themselves, whose textures stay on the screen too."""
    found = {}
    for style, styliser in STYLES.items():
        both = []
        for painted in (repaint(stream, held_out.clip, style, ONE), [styliser(frame) for frame in held_out.clip]):
            steps = zip(held_out.clip, held_out.clip[1:], painted, painted[1:], strict=False)
            both.append(float(np.nanmean([metrics.warp_error(*step) for step in steps])))
        found[style] = {"warp": both[0], "styliser_warp": both[1]}
    return found


def mean_change(stream: Stream, held_out: HeldOut, indices: tuple[int, ...], **more: Any) -> float:
    """How far the pack goes from the photograph, over all styles, of 255."""
    pictures = held_out.pictures[:4]
    changes = [
        metrics.apart(a, b)
        for style in STYLES
        for a, b in zip(pictures, repaint(stream, pictures, style, indices, **more), strict=True)
    ]
    return float(np.mean(changes))


def free_text(stream: Stream, held_out: HeldOut, classifier: Classifier) -> list[Figures]:
    pictures = held_out.pictures[:3]
    found = []
    for prompt, sensible in FREE_TEXT:
        shown = classifier.style(repaint(stream, pictures, prompt, ONE))
        found.append({"prompt": prompt, "shown": shown, "sensible": shown in sensible.split()})
    return found


def faces(stream: Stream, held_out: HeldOut) -> Figures:
    """Of the faces that are found in the photographs, the share that is found after repainting from index 32."""
    detector = Detector()
    seen = [picture for picture in held_out.faces if detector.finds(picture)]
    styles = [style for style in STYLES if style not in DISSOLVES]
    own = {style: float(np.mean([detector.finds(STYLES[style](picture)) for picture in seen])) for style in styles}
    # A styliser that hides faces from the detector cannot be asked for them.
    asked = [style for style in styles if own[style] > 0.99]
    kept = {style: float(np.mean([detector.finds(picture) for picture in repaint(stream, seen, style, FREER)])) for style in asked}
    return {"photographs": len(seen), "styles": kept, "share": float(np.mean(list(kept.values()))) if kept else 0.0}


def measure(stream: Stream, held_out: HeldOut, data: Path, quick: bool) -> Figures:
    classifier = None if quick else train_classifier(data)
    figures: Figures = {"styles": len(STYLES)}
    for name, indices in (("one", ONE), ("two", TWO)):
        figures[name] = fidelity(stream, held_out, indices, classifier)
    if quick or classifier is None:
        return figures
    figures["steadiness"] = steadiness(stream, held_out)
    figures["strength"] = [[index[0], mean_change(stream, held_out, index)] for index in STRENGTHS]
    figures["guidance"] = [[value, mean_change(stream, held_out, ONE, guidance=value)] for value in GUIDANCES]
    figures["faces"] = faces(stream, held_out)
    figures["free_text"] = free_text(stream, held_out, classifier)
    return figures
