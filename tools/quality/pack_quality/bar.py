"""The figures beside what is asked of them."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from .measure import KEEPS_EDGES

Figures = dict[str, Any]
Line = tuple[str, str, str, bool]
"""What is measured, what came out, what is asked (nothing: it is told only), and whether it is met."""

STYLES, PSNR, WORST_PSNR, FLICKER, EDGES, TOLD, FACES, FREE_TEXT = 24, 24.0, 17.0, 0.5, 0.6, 0.95, 0.9, 80
SAME = {"psnr": 0.05, "edge_f1": 0.005, "flicker": 0.02, "told": 0.005}
"""Two figures that are as near as this count as the same."""
MORE = {"two": "one", "three": "one", "four": "one", "freer_four": "freer_one"}
"""Of `Steps`, what is compared with what: several steps with one that begins with as much noise."""
CHANGE = 0.05
"""The same for how far pictures are apart, of 255."""


def mean(figures: Figures, name: str) -> float:
    return float(np.mean([style[name] for style in figures.values()]))


def monotone(pairs: list[list[float]]) -> bool:
    """Whether the second values never fall, and end higher than they began."""
    values = [value for _, value in pairs]
    falls = any(after < before - CHANGE for before, after in pairwise(values))
    return not falls and values[-1] > values[0] + CHANGE


def lines(figures: Figures) -> Iterator[Line]:
    yield "styles", str(figures["styles"]), f">= {STYLES}", figures["styles"] >= STYLES
    yield from one_step(figures)
    for steps, fewer in MORE.items():
        yield from more_steps(figures, steps, fewer)
    for steps in ("freer_one", "freer_four"):
        yield f"{told(figures, steps)} against {told(figures, 'one')}, PSNR", f"{gain(figures, steps, 'one', 'psnr'):+.2f} dB", "", True
    if "steadiness" in figures:
        yield from behaviour(figures)


def one_step(figures: Figures) -> Iterator[Line]:
    one = figures["one"]
    yield "PSNR to the styliser, mean", f"{mean(one, 'psnr'):.2f} dB", f">= {PSNR:g} dB", mean(one, "psnr") >= PSNR
    worst = min(one, key=lambda style: one[style]["psnr"])
    least = one[worst]["psnr"]
    yield f"PSNR to the styliser, worst style ({worst})", f"{least:.2f} dB", f">= {WORST_PSNR:g} dB", least >= WORST_PSNR
    if "told" in one[worst]:
        yield "styles told by the classifier", f"{100 * mean(one, 'told'):.1f} %", f">= {TOLD:.0%}", mean(one, "told") >= TOLD
        yield "the same of the stylisers' own pictures", f"{100 * mean(figures['stylisers'], 'told'):.1f} %", "", True
    asked = {style: one[style] for style, own in figures["stylisers"].items() if own["edge_f1"] >= KEEPS_EDGES}
    if asked:
        weakest = min(asked, key=lambda style: asked[style]["edge_f1"])
        edges, least = mean(asked, "edge_f1"), asked[weakest]["edge_f1"]
        yield f"edges kept, mean F1 of the {len(asked)} styles that keep them", f"{edges:.2f}", f">= {EDGES}", edges >= EDGES
        yield f"edges kept, weakest of these ({weakest})", f"{least:.2f}", f">= {EDGES}", least >= EDGES
    yield "flicker of a still scene, mean", f"{mean(one, 'flicker'):.2f}/255", f"<= {FLICKER}", mean(one, "flicker") <= FLICKER
    most = max(one, key=lambda style: one[style]["flicker"])
    over = sum(style["flicker"] > FLICKER for style in one.values())
    yield f"flicker, worst style ({most}); {over} over {FLICKER}", f"{one[most]['flicker']:.2f}/255", "", True


def told(figures: Figures, steps: str) -> str:
    """`two steps (47,49)`."""
    number = steps.removeprefix("freer_")
    return f"{number} step{'' if number == 'one' else 's'} ({figures['steps'][steps]})"


def gain(figures: Figures, steps: str, fewer: str, name: str) -> float:
    return mean(figures[steps], name) - mean(figures[fewer], name)


def more_steps(figures: Figures, steps: str, fewer: str) -> Iterator[Line]:
    """No worse than `fewer` on any figure, and nearer to the stylisers on average."""
    one, more = figures[fewer], figures[steps]
    what = f"{told(figures, steps)} against {told(figures, fewer)}"
    gained = gain(figures, steps, fewer, "psnr")
    yield f"{what}, PSNR", f"{gained:+.2f} dB", "> 0", gained > 0
    for name, figure, sign in (("edge_f1", "edges F1", 1), ("told", "styles told", 1), ("flicker", "flicker", -1)):
        if name in next(iter(one.values())):
            gained = gain(figures, steps, fewer, name)
            yield f"{what}, {figure}", f"{gained:+.3f}", ">= 0" if sign > 0 else "<= 0", sign * gained >= -SAME[name]
    behind = [style for style in one if more[style]["psnr"] < one[style]["psnr"] - SAME["psnr"]]
    yield f"styles in which {what} are further from the styliser", " ".join([str(len(behind)), *behind[:4]]), "0", not behind


def behaviour(figures: Figures) -> Iterator[Line]:
    steady = figures["steadiness"]
    yield "warp error over the clips", f"{mean(steady, 'warp'):.2f}/255", "", True
    yield "the same of the stylisers' own pictures", f"{mean(steady, 'styliser_warp'):.2f}/255", "", True
    changes = (("strength", "change by t-index"), ("guidance", "change by guidance"), ("negative", "change by negative prompt"))
    for name, what in changes:
        listed = ", ".join(f"{at:g}: {value:.1f}" for at, value in figures[name])
        yield what, listed, "rises", monotone(figures[name])
    faces = figures["faces"]
    share = faces["share"]
    yield f"faces found at index 32, {faces['portraits']} portraits", f"{100 * share:.0f} %", f">= {FACES:.0%}", share >= FACES
    yield "the same without regard to the stylisers' own pictures", f"{100 * faces['of_input']:.0f} %", "", True
    sensible = sum(entry["sensible"] for entry in figures["free_text"])
    yield f"free text, sensible of {len(figures['free_text'])}", str(sensible), f">= {FREE_TEXT}", sensible >= FREE_TEXT


def met(figures: Figures) -> bool:
    return all(fine for _, _, _, fine in lines(figures))


def table(figures: Figures) -> str:
    """Markdown: the bar, then every style, then the free prompts that went wrong."""
    rows = ["| measured | figure | asked | |", "|---|---|---|---|"]
    for what, figure, asked, fine in lines(figures):
        rows.append(f"| {what} | {figure} | {asked} | {'' if not asked else 'met' if fine else '**missed**'} |")
    one, two, own = figures["one"], figures["two"], figures["stylisers"]
    rows += ["", "| style | PSNR, one step | two steps | edges F1 | the styliser's | flicker | told |", "|---|---|---|---|---|---|---|"]
    for style, value in one.items():
        share = value.get("told", math.nan)
        rows.append(
            f"| {style} | {value['psnr']:.1f} | {two[style]['psnr']:.1f} | {value['edge_f1']:.2f} | {own[style]['edge_f1']:.2f} "
            f"| {value['flicker']:.2f} | {'' if math.isnan(share) else f'{100 * share:.0f} %'} |"
        )
    if figures.get("free_text"):
        rows += ["", "| prompt | nearest style | sensible |", "|---|---|---|"]
        rows += [f"| {entry['prompt']} | {entry['shown']} | {'yes' if entry['sensible'] else '**no**'} |" for entry in figures["free_text"]]
    return "\n".join(rows)
