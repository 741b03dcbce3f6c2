"""Time-bound training: how far it is, what rate that means, and checkpoints that nothing can cut in half."""

import os
import time
from pathlib import Path
from typing import Any

import torch


class Clock:
    """Counts the minutes that training has had, over interruptions."""

    def __init__(self, minutes: float, spent: float = 0.0) -> None:
        self.minutes = minutes
        self.before = spent
        self.start = time.monotonic()

    @property
    def spent(self) -> float:
        """Minutes."""
        return self.before + (time.monotonic() - self.start) / 60

    @property
    def share(self) -> float:
        """0 at the beginning, 1 at the end."""
        return min(1.0, self.spent / self.minutes)

    def rate(self, step: int, warm: int = 60, level: float = 0.35, power: float = 1.0) -> float:
        """Share of the learning rate: up within `warm` steps, level, and down to 0 over the last 1 - `level` of the time,
        by a straight line to the power of `power`."""
        down = 1 - max(0.0, self.share - level) / (1 - level)
        return min(1.0, (step + 1) / warm) * max(0.0, down) ** power


def save(state: dict[str, Any], path: Path) -> None:
    """Replaces the file in one move."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def load(path: Path) -> dict[str, Any] | None:
    """What was saved, or none where there is nothing."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None
