"""The U-Net and the text encoder.

What they learn is a bridge: noisy latents of a *photograph* to clean latents of the same picture in the style of the caption.
So one step repaints a frame. An empty caption leaves the picture as it is, which makes guidance go from the photograph to the
style (what R-CFG "self" takes for the unconditional prediction is the photograph itself).

Later steps of a stream batch do not see photographs but what the step before gave, so a part of the training starts from the
network's own clean latents (a rollout). Toward the end the decoder joins in, and the difference is taken on pixels.
"""

import copy
import queue
import threading
import warnings
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import progress
from .captions import Captioner
from .networks import Decoder, TextEncoder, UNet
from .styles import STYLES
from .vae import optimisers, psnr, slopes, to_tensor
from .vocabulary import Vocabulary

NAMES = list(STYLES)
HARD = {
    "photo": 0.7, "pencil": 1.3, "crayon": 1.5, "charcoal": 1.3, "ink": 1.8, "engraving": 1.6, "comic": 1.8, "oil": 1.8,
    "watercolor": 1.5, "vangogh": 1.8, "popart": 1.3, "halftone": 1.5, "neon": 1.6, "blueprint": 1.6, "bronze": 1.3,
    "lava": 1.5, "matrix": 1.2, "stained": 1.2, "embroidery": 1.2, "pixel": 1.0, "gameboy": 1.0,
}  # fmt: skip
"""How often a style is drawn; 0.7 where it only changes colours, which is learnt in minutes."""
IDENTITY = 0.1
"""Share of samples with an empty caption."""
SHAPES = ((32, 24, 0.7), (48, 10, 0.2), (64, 6, 0.1))
"""Side in latents, samples, and share of the batches. Latents repeat their phase every 8: cuts are multiples of that."""
JOINT = 0.62
"""Share of the time after which the decoder learns along, on pixels."""

LIMIT = 8.0
"""Of a latent's values in a rollout, in deviations: what lies beyond is no picture."""
OUTLIER = 3.0
"""A batch whose loss is so many times the usual is left out. Without normalisation layers, and in bf16, one in some thousands
explodes."""


@dataclass
class Batch:
    """Latents `[B, 16, side, side]`, what they are to become, and where to find it in pixels."""

    source: Tensor
    target: Tensor
    pixels: np.ndarray | None
    ids: Tensor
    styles: Tensor


class Loader:
    """Draws batches in a thread of its own, a few ahead."""

    def __init__(self, latents: Path, tuples: Path, vocabulary: Vocabulary, seed: int) -> None:
        self.latents = np.load(latents, mmap_mode="r")
        self.pictures = np.load(tuples, mmap_mode="r")
        self.vocabulary = vocabulary
        self.captioner = Captioner(vocabulary.similar, vocabulary.fillers, seed)
        self.chance = np.random.default_rng(seed)
        weights = np.array([HARD.get(name, 0.7) for name in NAMES])
        self.weights = weights / weights.sum()
        self.with_pixels = False
        self.ready: queue.Queue[Batch] = queue.Queue(4)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            self.ready.put(self._draw())

    def _draw(self) -> Batch:
        chance = self.chance
        side, size, _ = SHAPES[chance.choice(len(SHAPES), p=[share for *_, share in SHAPES])]
        pixels = np.empty((size, 4 * side, 4 * side, 3), np.uint8) if self.with_pixels else None
        source = np.empty((size, self.latents.shape[2], side, side), np.float32)
        target = np.empty_like(source)
        ids, styles = [], []
        for row in range(size):
            index = chance.integers(len(self.latents))
            style = chance.choice(len(NAMES), p=self.weights)
            top, left = 8 * chance.integers((64 - side) // 8 + 1, size=2)
            part = np.s_[:, top : top + side, left : left + side]
            own = self.latents[index]
            # Half of the photographs as a camera gives them; a few sources already have the style, or lie between.
            photograph = own[chance.integers(2)][part].astype(np.float32)
            between = chance.choice([0.0, 1.0, chance.random()], p=[0.84, 0.08, 0.08])
            identity = chance.random() < IDENTITY
            styled = own[1 + style][part].astype(np.float32)
            source[row] = photograph * (1 - between) + styled * between if between else photograph
            kind = style + 1
            if identity:
                # Whatever the picture is, it stays; the camera's noise goes.
                keep_style = chance.random() < 0.4
                source[row] = styled if keep_style else photograph
                kind = style + 1 if keep_style else 1
            target[row] = own[kind][part]
            if pixels is not None:
                pixels[row] = self.pictures[index, kind, 4 * top : 4 * (top + side), 4 * left : 4 * (left + side)]
            styles.append(-100 if identity else style)
            ids.append(self.vocabulary.ids("" if identity else self.captioner.caption(NAMES[style])))
        return Batch(torch.from_numpy(source), torch.from_numpy(target), pixels, torch.tensor(ids), torch.tensor(styles))


def draw_timesteps(size: int, chance: torch.Generator) -> Tensor:
    """Mostly little noise, where most people use the pack; the rest reaches as far as a strength of 0.7."""
    which = torch.rand(size, generator=chance)
    low = torch.where(which < 0.5, 5, torch.where(which < 0.8, 60, 200)).float()
    high = torch.where(which < 0.5, 110, torch.where(which < 0.8, 380, 720)).float()
    return (low + (high - low) * torch.rand(size, generator=chance)).long()


class Trainer:
    """The networks, their averages over time, and the steps."""

    def __init__(self, vocabulary: Vocabulary, vae: dict[str, dict[str, Tensor]], seed: int) -> None:
        torch.manual_seed(seed)
        self.chance = torch.Generator().manual_seed(seed)
        self.unet = UNet().to(memory_format=torch.channels_last)
        self.text = TextEncoder(torch.from_numpy(vocabulary.vectors))
        self.decoder = Decoder().to(memory_format=torch.channels_last)
        self.decoder.load_state_dict(vae["decoder"])
        # Tells which style a caption asks for: only to make the text encoder useful within minutes.
        self.tell = nn.Linear(128, len(NAMES))
        self.made = optimisers([self.unet, self.text, self.tell], 0.01, 1e-3)
        self.late = optimisers([self.decoder], 0.002, 3e-4)
        self.step = 0
        self.losses = {joint: deque([], 200) for joint in (False, True)}
        self.averages = {name: copy.deepcopy(module) for name, module in self.modules().items()}

    def modules(self) -> dict[str, nn.Module]:
        return {"unet": self.unet, "text": self.text, "decoder": self.decoder}

    def state(self) -> dict[str, object]:
        return {
            "now": {name: module.state_dict() for name, module in self.modules().items()},
            "average": {name: module.state_dict() for name, module in self.averages.items()},
            "tell": self.tell.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in (*self.made, *self.late)],
            "step": self.step,
        }

    def restore(self, kept: dict) -> None:
        for name, module in self.modules().items():
            module.load_state_dict(kept["now"][name])
            self.averages[name].load_state_dict(kept["average"][name])
        self.tell.load_state_dict(kept["tell"])
        for optimiser, state in zip((*self.made, *self.late), kept["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        self.step = kept["step"]

    def noisy(self, clean: Tensor, timestep: Tensor) -> Tensor:
        signal, noise = self.unet.scales(timestep)
        x = signal * clean + noise * torch.randn(clean.shape, generator=self.chance)
        return x.contiguous(memory_format=torch.channels_last)

    def clean(self, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.unet.clean(x, timestep, context)

    def loss(self, batch: Batch, rollout: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        size = len(batch.source)
        timestep = draw_timesteps(size, self.chance)
        context = self.text(batch.ids)
        source = batch.source
        if rollout:
            earlier = timestep + (torch.rand(size, generator=self.chance) * 320).long() + 15
            earlier = earlier.clamp(max=740)
            with torch.no_grad():
                source = self.clean(self.noisy(source, earlier), earlier, context).float().clamp(-LIMIT, LIMIT)
        found = self.clean(self.noisy(source, timestep), timestep, context).float()
        # Of much noise no one could make the target: such samples count less.
        weight = 1 / (0.4 + self.unet.scales(timestep)[1])
        difference = (found - batch.target) * weight
        loss = 0.6 * difference.abs().mean() + 0.4 * (difference * (found - batch.target)).mean()
        decibel = None
        if batch.pixels is not None:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                seen = self.decoder(found.contiguous(memory_format=torch.channels_last)).float()
            wanted = to_tensor(batch.pixels)
            apart = (seen - wanted) * weight
            loss = 0.3 * loss + apart.abs().mean() + 2 * (apart * (seen - wanted)).mean() + 0.4 * slopes(seen * weight, wanted * weight)
            near = timestep < 110
            decibel = psnr(seen.detach().clamp(-1, 1), wanted)[near].mean()
        told = F.cross_entropy(self.tell(context[:, 0]), batch.styles, ignore_index=-100)
        return loss, told, decibel

    def usual(self, value: float, joint: bool) -> bool:
        """Whether a loss is like those before it, of the same kind."""
        before = self.losses[joint]
        fine = np.isfinite(value) and (len(before) < 20 or value < OUTLIER * np.median(before))
        if fine:
            before.append(value)
        return bool(fine)

    def update(self, batch: Batch, rollout: bool, rate: float) -> tuple[float, float, float | None]:
        loss, told, decibel = self.loss(batch, rollout)
        joint = batch.pixels is not None
        optimisers = (*self.made, *self.late) if joint else self.made
        value = loss.item()
        self.step += 1
        if not self.usual(value, joint):
            print(f"unet step {self.step}: a batch with loss {value:.3g} is left out", flush=True)
            return float("nan"), told.item(), None
        for optimiser in (*self.made, *self.late):
            optimiser.zero_grad(set_to_none=True)
        (loss + 0.03 * told).backward()
        parameters = [p for group in optimisers for g in group.param_groups for p in g["params"]]
        length = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        if not torch.isfinite(length):
            print(f"unet step {self.step}: a gradient without end is left out", flush=True)
            return float("nan"), told.item(), None
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["highest"] * rate
            optimiser.step()
        keep = min(0.998, self.step / (self.step + 30))
        with torch.no_grad():
            for name, module in self.modules().items():
                averaged = [p for p in self.averages[name].parameters() if p.requires_grad]
                torch._foreach_lerp_(averaged, [p for p in module.parameters() if p.requires_grad], 1 - keep)
        return value, told.item(), None if decibel is None else decibel.item()


def train(latents: Path, tuples: Path, vocabulary: Path, vae: Path, path: Path, minutes: float, seed: int) -> None:
    """Trains for so many minutes in all, or goes on where `path` was left."""
    words = Vocabulary.load(vocabulary)
    autoencoder = progress.load(vae)
    assert autoencoder is not None
    trainer = Trainer(words, autoencoder, seed)
    kept = progress.load(path)
    if kept:
        trainer.restore(kept)
    clock = progress.Clock(minutes, kept["spent"] if kept else 0.0)
    loader = Loader(latents, tuples, words, seed + trainer.step)
    coin = np.random.default_rng([seed, trainer.step])
    saved, seen = clock.spent, []
    while clock.share < 1:
        loader.with_pixels = clock.share >= JOINT
        batch = loader.ready.get()
        # Its own pictures are worth something only when it has learnt a little.
        rollout = clock.share > 0.15 and coin.random() < 0.35
        value, told, decibel = trainer.update(batch, rollout, clock.rate(trainer.step))
        seen.append((value, told, np.nan if decibel is None else decibel))
        if trainer.step % 100 == 0:
            with warnings.catch_warnings(action="ignore"):  # before the decoder joins, there are no decibels at all
                mean = np.nanmean(np.array(seen), 0)
            print(f"unet step {trainer.step}, {clock.spent:.1f} min: loss {mean[0]:.4f}, text {mean[1]:.3f}, {mean[2]:.2f} dB", flush=True)
            seen.clear()
        if clock.spent - saved > 3:
            saved = clock.spent
            progress.save(trainer.state() | {"spent": clock.spent}, path)
    progress.save(trainer.state() | {"spent": clock.spent}, path)
