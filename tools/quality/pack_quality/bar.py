"""The figures beside what is asked of them."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

Figures = dict[str, Any]
FREE_TEXT_BAR = 80
NOISE = 0.05
"""Two means that are this near (in dB, or of 255) count as the same."""


def mean(figures: Figures, name: str) -> float:
    return float(np.mean([style[name] for style in figures.values()]))


def monotone(pairs: list[list[float]]) -> bool:
    """Whether the second values never fall."""
    values = [value for _, value in pairs]
    return all(after >= before - NOISE for before, after in zip(values, values[1:], strict=False))


def lines(figures: Figures) -> Iterator[tuple[str, str, str, bool]]:
    """What is measured, what came out, what is asked, and whether it is met."""
    from .measure import DISSOLVES

    one, two = figures["one"], figures["two"]
    yield "styles", str(figures["styles"]), ">= 24", figures["styles"] >= 24
    worst = min(one, key=lambda style: one[style]["psnr"])
    yield "PSNR to the styliser, mean", f"{mean(one, 'psnr'):.2f} dB", ">= 24", mean(one, "psnr") >= 24
    yield f"PSNR to the styliser, worst ({worst})", f"{one[worst]['psnr']:.2f} dB", ">= 17", one[worst]["psnr"] >= 17
    flicker = max(one, key=lambda style: one[style]["flicker"])
    yield "flicker of a still scene, mean", f"{mean(one, 'flicker'):.2f}", "<= 0.5", mean(one, "flicker") <= 0.5
    yield f"flicker, worst ({flicker})", f"{one[flicker]['flicker']:.2f}", "", True
    kept = {style: value for style, value in one.items() if style not in DISSOLVES}
    least = min(kept, key=lambda style: kept[style]["edge_f1"])
    yield "edges kept, mean F1", f"{mean(kept, 'edge_f1'):.2f}", ">= 0.6", mean(kept, "edge_f1") >= 0.6
    yield f"edges kept, least ({least})", f"{kept[least]['edge_f1']:.2f}", ">= 0.6", kept[least]["edge_f1"] >= 0.6
    gain = mean(two, "psnr") - mean(one, "psnr")
    yield "two steps over one, PSNR", f"{gain:+.2f} dB", "> 0", gain > 0
    behind = [style for style in one if two[style]["psnr"] < one[style]["psnr"] - NOISE]
    yield "styles in which two steps are behind one", str(len(behind)), "0", not behind
    calmer = mean(two, "flicker") - mean(one, "flicker")
    yield "two steps over one, flicker", f"{calmer:+.2f}", "<= 0", calmer <= NOISE
    if "told" not in next(iter(one.values())):
        return
    yield "style classifier", f"{100 * mean(one, 'told'):.1f} %", ">= 95 %", mean(one, "told") >= 0.95
    yield "style classifier, two steps", f"{100 * mean(two, 'told'):.1f} %", ">= 95 %", mean(two, "told") >= 0.95
    steady = figures["steadiness"]
    yield "warp error, and the stylisers' own", f"{mean(steady, 'warp'):.2f}, {mean(steady, 'styliser_warp'):.2f}", "", True
    for name, what in (("strength", "change by t-index"), ("guidance", "change by guidance")):
        told = ", ".join(f"{at:g}: {value:.1f}" for at, value in figures[name])
        yield what, told, "rises", monotone(figures[name])
    share = figures["faces"]["share"]
    yield f"faces found at index 32 ({figures['faces']['photographs']} portraits)", f"{100 * share:.0f} %", ">= 90 %", share >= 0.9
    sensible = sum(entry["sensible"] for entry in figures["free_text"])
    yield "free text, sensible styles of 100", str(sensible), f">= {FREE_TEXT_BAR}", sensible >= FREE_TEXT_BAR


def table(figures: Figures) -> str:
    """Markdown: the bar, then every style."""
    rows = ["| measured | figure | asked | |", "|---|---|---|---|"]
    for what, figure, asked, met in lines(figures):
        rows.append(f"| {what} | {figure} | {asked} | {'' if not asked else 'met' if met else '**missed**'} |")
    one, two = figures["one"], figures["two"]
    rows += ["", "| style | PSNR, one step | two steps | edges F1 | flicker | told |", "|---|---|---|---|---|---|"]
    for style, value in one.items():
        told = value.get("told", math.nan)
        rows.append(
            f"| {style} | {value['psnr']:.1f} | {two[style]['psnr']:.1f} | {value['edge_f1']:.2f} | {value['flicker']:.2f} "
            f"| {'' if math.isnan(told) else f'{100 * told:.0f} %'} |"
        )
    missed = [f"{entry['prompt']} ({entry['shown']})" for entry in figures.get("free_text", []) if not entry["sensible"]]
    if missed:
        rows += ["", "Free text that shows another style than a person would expect: " + "; ".join(missed) + "."]
    return "\n".join(rows)
