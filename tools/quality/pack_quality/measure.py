"""Every figure of a pack."""

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from pack_train.captions import PROMPTS
from pack_train.styles import STYLES
from pack_train.tuples import crop, photographs

from . import metrics
from .classify import Classifier, worn
from .faces import Detector
from .freetext import PROMPTS as FREE_TEXT
from .held_out import HeldOut
from .stream import Stream, TIndex

FREER = TIndex((32,))
STRENGTHS = (49, 47, 45, 40, 32, 25)
GUIDANCES = (1.0, 1.3, 1.6, 2.0)
NEGATIVE = "photo"
"""The negative prompt of which it is measured that more guidance leads further from it."""
SIGMA = 2.0
"""Of the camera's noise on the still scene, of 255."""
STILL = 3
"""Pictures that stand still, each with two draws of noise."""
CHANGED = 2
"""Pictures on which the effect of strength and guidance is measured, in every style."""
TRAINING = 120
"""Crops of training photographs that the classifier learns from, each in every style, as it is and worn."""
KEEPS_EDGES = 0.6
"""A style is asked for its edges where the styliser's own pictures keep them as well as this."""

Figures = dict[str, Any]


@dataclass(frozen=True)
class Steps:
    """The settings that are compared.

    More steps begin where one does, for what the noise of the first hides is gone: so four need a finer table than that of 50 times. Of
    that one, four begin at 46 at the latest.
    """

    one: TIndex = TIndex((47,))
    two: TIndex = TIndex((47, 49))
    three: TIndex = TIndex((47, 48, 49))
    four: TIndex = TIndex((94, 96, 97, 98), 100)
    freer_one: TIndex = TIndex((46,))
    freer_four: TIndex = TIndex((46, 47, 48, 49))

    def listed(self) -> dict[str, TIndex]:
        return {steps.name: getattr(self, steps.name) for steps in fields(self)}


def batches(pictures: list[np.ndarray], size: int = 8) -> list[np.ndarray]:
    return [np.stack(pictures[start : start + size]) for start in range(0, len(pictures), size)]


def repaint(stream: Stream, pictures: list[np.ndarray], style: str, at: TIndex, **more: Any) -> list[np.ndarray]:
    prompt = PROMPTS.get(style, style)
    return [painted for batch in batches(pictures) for painted in stream.repaint(batch, prompt, at, **more)]


def train_classifier(data: Path) -> Classifier:
    photos = photographs(data)
    chance, wear = random.Random(5), np.random.default_rng(5)
    pictures, styles = [], []
    for index in range(TRAINING):
        clean = crop(photos[index * 7 % len(photos)].picture, chance)
        for place, styliser in enumerate(STYLES.values()):
            styled = styliser(clean)
            pictures += [styled, worn(styled, wear)]
            styles += [place, place]
    return Classifier(pictures, styles, list(STYLES))


def stylised(held_out: HeldOut, classifier: Classifier | None) -> Figures:
    """Of the stylisers' own pictures: what the pack is compared with, and how far the classifier can be trusted."""
    found = {}
    for style, styliser in STYLES.items():
        pictures = [styliser(picture) for picture in held_out.pictures]
        edges = [metrics.edge_f1(a, b) for a, b in zip(held_out.pictures, pictures, strict=True)]
        found[style] = {"edge_f1": float(np.mean(edges))}
        if classifier:
            found[style]["told"] = float(np.mean([classifier.style([picture]) == style for picture in pictures]))
    return found


def fidelity(stream: Stream, held_out: HeldOut, at: TIndex, classifier: Classifier | None) -> Figures:
    """Per style: dB to the styliser's own picture, edges kept, flicker, and how often it is taken for itself."""
    found: dict[str, Figures] = {}
    for style, styliser in STYLES.items():
        painted = repaint(stream, held_out.pictures, style, at)
        decibels = [metrics.psnr(a, styliser(b)) for a, b in zip(painted, held_out.pictures, strict=True)]
        figures: Figures = {
            "psnr": float(np.mean(decibels)),
            "worst": int(np.argmin(decibels)),
            "edge_f1": float(np.mean([metrics.edge_f1(a, b) for a, b in zip(held_out.pictures, painted, strict=True)])),
            "flicker": flicker(stream, held_out.pictures[:STILL], style, at),
        }
        if classifier:
            figures["told"] = float(np.mean([classifier.style([picture]) == style for picture in painted]))
        found[style] = figures
    return found


def flicker(stream: Stream, pictures: list[np.ndarray], style: str, at: TIndex) -> float:
    """How much the painting of a still scene changes from frame to frame by the camera's noise alone, of 255."""
    still = [metrics.noisy(picture, SIGMA, seed) for picture in pictures for seed in (1, 2)]
    painted = repaint(stream, still, style, at)
    return float(np.mean([metrics.apart(a, b) for a, b in zip(painted[::2], painted[1::2], strict=True)]))


def steadiness(stream: Stream, held_out: HeldOut, at: TIndex) -> Figures:
    """Warp error over the clips, of the pack and of the stylisers themselves, whose textures stay on the screen too."""
    found = {}
    everything = [frame for clip in held_out.clips for frame in clip]
    for style, styliser in STYLES.items():
        both = []
        for painted in (repaint(stream, everything, style, at), [styliser(frame) for frame in everything]):
            errors = []
            for number, clip in enumerate(held_out.clips):
                own = painted[number * len(clip) : (number + 1) * len(clip)]
                errors += [metrics.warp_error(*pair) for pair in zip(clip, clip[1:], own, own[1:], strict=False)]
            both.append(float(np.nanmean(errors)))
        found[style] = {"warp": both[0], "styliser_warp": both[1]}
    return found


def mean_change(stream: Stream, held_out: HeldOut, at: TIndex, **more: Any) -> float:
    """How far the pack goes from the photograph, over all styles, of 255."""
    pictures = held_out.pictures[:CHANGED]
    changes = [
        metrics.apart(a, b)
        for style in STYLES
        for a, b in zip(pictures, repaint(stream, pictures, style, at, **more), strict=True)
    ]
    return float(np.mean(changes))


def free_text(stream: Stream, held_out: HeldOut, classifier: Classifier, at: TIndex) -> list[Figures]:
    """Which style every one of the free prompts shows, and whether a person would accept it."""
    pictures = held_out.pictures[:3]
    found = []
    for prompt, sensible in FREE_TEXT:
        painted = list(stream.repaint(np.stack(pictures), prompt, at))
        shown = classifier.style(painted)
        found.append({"prompt": prompt, "shown": shown, "sensible": shown in sensible.split()})
    return found


def faces(stream: Stream, held_out: HeldOut, at: TIndex) -> Figures:
    """Of the faces that are found in the portraits, the share that is found in the same place after repainting.

    In many a style there is no face to the detector even in the styliser's own pictures, so that theirs is counted too.
    """
    detector = Detector()
    seen = [(picture, face) for picture in held_out.faces if (face := detector.largest(picture))]
    pictures = [picture for picture, _ in seen]
    found: Figures = {"portraits": len(seen), "styles": {}}
    asked = kept = 0
    for style, styliser in STYLES.items():
        painted = repaint(stream, pictures, style, at)
        ours = [detector.finds_again(face, picture) for picture, (_, face) in zip(painted, seen, strict=True)]
        theirs = [detector.finds_again(face, styliser(picture)) for picture, face in seen]
        asked += sum(theirs)
        kept += sum(mine for mine, other in zip(ours, theirs, strict=True) if other)
        found["styles"][style] = {"pack": float(np.mean(ours)), "styliser": float(np.mean(theirs))}
    found["share"] = kept / asked if asked else 0.0
    found["of_input"] = float(np.mean([style["pack"] for style in found["styles"].values()]))
    return found


def measure(stream: Stream, held_out: HeldOut, data: Path, steps: Steps, quick: bool) -> Figures:
    figures: Figures = {"styles": len(STYLES), "steps": {name: str(at) for name, at in steps.listed().items()}}

    def stage(name: str, found: Callable[[], Any]) -> None:
        began = time.monotonic()
        figures[name] = found()
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    classifier = None
    if not quick:
        began = time.monotonic()
        classifier = train_classifier(data)
        print(f"classifier: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    stage("stylisers", lambda: stylised(held_out, classifier))
    for name, at in steps.listed().items():
        stage(name, lambda at=at: fidelity(stream, held_out, at, classifier))
    if classifier is None:
        return figures
    changes = {"strength": [(index, TIndex((index,)), {}) for index in STRENGTHS]}
    changes["guidance"] = [(value, steps.one, {"guidance": value}) for value in GUIDANCES]
    changes["negative"] = [(value, steps.one, {"guidance": value, "negative": NEGATIVE}) for value in GUIDANCES]
    stage("steadiness", lambda: steadiness(stream, held_out, steps.one))
    for name, asked in changes.items():
        stage(name, lambda asked=asked: [[value, mean_change(stream, held_out, at, **more)] for value, at, more in asked])
    stage("faces", lambda: faces(stream, held_out, FREER))
    stage("free_text", lambda: free_text(stream, held_out, classifier, steps.one))
    return figures
