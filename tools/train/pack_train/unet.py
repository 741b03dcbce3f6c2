"""The U-Net, on a text encoder that has learnt what prompts mean.

What it learns is a bridge: noisy latents of a *photograph* to clean latents of the same picture in the style of the prompt.
So one step repaints a frame. An empty prompt leaves the picture as it is, which makes guidance go from the photograph to the
style (what R-CFG "self" takes for the unconditional prediction is the photograph itself).

Later steps of a stream batch do not see photographs but what the step before gave. So more than half of the training starts from
the network's own clean latents (a rollout) after one, two or three steps, mostly without noise between them. And what the network gives
carries a mark that no photograph has and no one sees (`marked`): without it, a step could not tell a painted picture from a photograph
that looks like one, and would paint it again.
"""

import copy
import warnings
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import progress
from .arithmetic import arithmetic
from .captions import Captioner
from .networks import PATCH, SCALE, Decoder, Encoder, TextEncoder, UNet
from .styles import STYLES, Picture
from .tuples import camera
from .vae import optimisers, psnr, slopes, to_tensor
from .vocabulary import Vocabulary

NAMES = list(STYLES)
HARD = {
    "photo": 0.7, "pencil": 1.5, "crayon": 1.3, "charcoal": 1.5, "ink": 1.8, "engraving": 1.5, "comic": 2.1, "oil": 1.6,
    "watercolor": 1.4, "vangogh": 1.6, "popart": 1.3, "halftone": 1.5, "neon": 1.8, "blueprint": 1.7, "bronze": 1.5,
    "lava": 1.7, "matrix": 1.1, "stained": 1.2, "embroidery": 1.2, "pixel": 1.6, "gameboy": 1.2, "cyberpunk": 1.1,
}  # fmt: skip
"""How often a style is drawn; 0.7 where it only changes colours, which is learnt in minutes."""
LASTING = {"photo": 4.0}
"""The same in later steps, if not once: there the styles that are learnt in minutes are the ones to get worse, as all that is right is to
leave them alone."""
TONES = ("sepia", "noir", "night", "underwater", "autumn", "blossom", "winter", "thermal", "cyberpunk")
"""Styles that change colours alone: of a prompt that asks for one of them and for another style, this one comes on top."""
MIXED, KEPT = 0.1, 0.04
"""Shares of samples with two styles, and of pictures in a style that a prompt for a photograph leaves alone."""
SHAPES = ((32, 24, 0.75), (48, 10, 0.17), (64, 6, 0.08))
"""Side in latents, samples, and share of the batches. Textures repeat every 8 latents: cuts are multiples of that."""
JOINT = 0.4
"""Share of the time after which the decoder learns along."""
ROLLOUT = 0.6
"""Share of the batches that start from the network's own pictures, once it has learnt a little."""
STRENGTH = {15: 0.0, 50: 1.0, 62: 1.0, 80: 1.01, 100: 1.08, 500: 1.35}
"""How much of the way from the photograph to the style is asked for at a time step, so that the strength follows it: index 49 is 19, 47 is
59, 46 is 79, 45 is 99 and 32 is 359. It rises fast behind 46, for more noise alone makes a paler picture, and 45 would change less than 47.
Not before, for four steps begin at 46, and an overshoot of 4 % takes a decibel from the styles that are nearest to theirs."""

TWINS = 0.2
"""Share of a batch's samples that are in it twice, under two draws of the camera's noise."""
STEADY = 12.0
"""Weight of the difference between what such twins become. Without it, noise that hardly shows in the error is left to flicker."""
AREA, EVEN = 16, 3.0
"""Side in pixels of the areas whose mean is asked for on top, and the weight of that. Each step moves tones a little, which no loss of single
pixels minds much beside what it costs to draw a line; without this, tones are what four steps lose by."""
GAIN = 3.0
"""Bound of the weights of later steps: with more, pictures that are right already outweigh all others."""
CHAINS = (0.3, 0.3, 0.4)
"""Shares of the rollouts that go through one, two and three steps."""
RENOISED = 0.05
"""Share of the rollouts whose later steps get noise again, as `add-noise` (the paper's code: do_add_noise) would have it. The pack turns that
off: noise hides what was drawn, and a step that brings back what it hid gains less than that costs."""
MARK = 1.0
"""Length of the mark in latents, whose deviation is `SCALE`. Averaged over 8 x 8 of them, photographs deviate by 0.04 in this direction, and
the noise of index 47 by 0.03: a mark of a tenth could hardly be told from them. Before the decoder has learnt of it, it changes pixels by 1.3 of 255."""
LIMIT = 8.0
"""Of a latent's values in a rollout, in deviations: what lies beyond is no picture."""
OUTLIER = 3.0
"""A batch whose loss is so many times the usual is left out. Without normalisation layers, and in bf16, one in some thousands
explodes."""


def strength(timestep: float) -> float:
    """Of `STRENGTH`, with straight lines between."""
    return float(np.interp(timestep, list(STRENGTH), list(STRENGTH.values())))


@dataclass
class Batch:
    """Latents `[B, 32, side, side]` and what they are to become, also in pixels; the styles' shares `[B, 24, styles]`; the time
    steps, and those of the steps before from the first on, if it is a later step; whether later steps get noise again. The last
    `twins` samples are the first ones under other noise of the camera."""

    source: Tensor
    target: Tensor
    pixels: Tensor
    shares: Tensor
    timestep: Tensor
    earlier: list[Tensor]
    renoised: bool
    twins: int


class Loader:
    """Draws batches. That takes a fifteenth of a step, and none of it beside a step: the threads of a convolution wait for each other, so
    that a third one on the same cores cost more than it saved."""

    def __init__(self, tuples: Path, vocabulary: Vocabulary, text: TextEncoder, encoder: Encoder, seed: int) -> None:
        self.pictures = np.load(tuples, mmap_mode="r")
        self.vocabulary = vocabulary
        self.text, self.encoder = text, encoder
        self.captioner = Captioner(vocabulary.similar, vocabulary.fillers, seed)
        self.chance = np.random.default_rng(seed)
        self.first, self.later = chances(HARD, 0.7), chances(LASTING, 1.0)
        self.rollouts = False
        """Whether the network has learnt enough for its pictures to be worth something."""

    @torch.no_grad()
    def draw(self) -> Batch:
        chance = self.chance
        side, size, _ = SHAPES[chance.choice(len(SHAPES), p=[share for *_, share in SHAPES])]
        later = self.rollouts and chance.random() < ROLLOUT
        styles = self.later if later else self.first
        twins = round(TWINS * size)
        timestep, earlier = draw_timesteps(size - twins, chance, later)
        first = earlier[0] if earlier else timestep
        source = np.empty((size, side * PATCH, side * PATCH, 3), np.uint8)
        target = np.empty((size - twins, *source.shape[1:]), np.uint8)
        captions: list[tuple[str, str]] = []
        between = np.zeros(size - twins, np.float32)
        for row in range(size - twins):
            top, left = 8 * PATCH * chance.integers((64 - side) // 8 + 1, size=2)
            crop = np.s_[:, top : top + side * PATCH, left : left + side * PATCH]
            own = self.pictures[chance.integers(len(self.pictures))][crop]
            photograph = own[1]
            style = int(chance.choice(len(NAMES), p=styles))
            caption = self.captioner.caption(NAMES[style])
            other, wanted = caption, own[1 + style]
            kind = chance.random()
            if kind < MIXED:
                second = int(chance.choice(len(NAMES), p=styles))
                between[row] = chance.choice([0.5, chance.random()], p=[0.6, 0.4])
                other = self.captioner.caption(NAMES[second])
                if between[row] == 0.5 and chance.random() < 0.6:
                    caption = other = self.captioner.mixed(NAMES[style], NAMES[second])
                wanted = mixture(own, style, second, float(between[row]))
            elif kind < MIXED + KEPT:
                photograph = wanted
                caption = other = "" if chance.random() < 0.5 else self.captioner.caption("photo")
            elif style == 0 and chance.random() < 0.5:
                caption = other = ""
            if row < twins:
                source[[row, size - twins + row]] = camera(photograph, chance, 2)
            else:
                source[row] = camera(photograph, chance)[0] if chance.random() < 0.7 else photograph
            target[row] = moved(photograph, wanted, strength(float(first[row])))
            captions.append((caption, other))
        again = torch.cat([torch.arange(size - twins), torch.arange(twins)])
        shares = self.text.weights(torch.tensor([self.vocabulary.ids(caption) for pair in captions for caption in pair]))
        shares = shares.reshape(size - twins, 2, *shares.shape[1:])
        shares = torch.lerp(shares[:, 0], shares[:, 1], torch.from_numpy(between)[:, None, None])[again]
        pixels = to_tensor(target)
        with arithmetic():
            latents = self.encoder(torch.cat([to_tensor(source), pixels])).float() * SCALE
        sources, targets = latents[:size], latents[size:][again].contiguous(memory_format=torch.channels_last)
        pixels = pixels[again].contiguous(memory_format=torch.channels_last)
        renoised = chance.random() < RENOISED
        return Batch(sources, targets, pixels, shares, timestep[again], [times[again] for times in earlier], renoised, twins)


def chances(weights: dict[str, float], usual: float) -> np.ndarray:
    """Of every style to be drawn, `float64[styles]`."""
    given = np.array([weights.get(name, usual) for name in NAMES])
    return given / given.sum()


def moved(photograph: Picture, styled: Picture, share: float) -> Picture:
    """The picture so far on the way from the photograph to the style."""
    if share == 1:
        return styled
    whole = photograph + (styled.astype(np.float32) - photograph) * share
    return np.clip(whole + 0.5, 0, 255).astype(np.uint8)


def mixture(own: np.ndarray, first: int, second: int, between: float) -> Picture:
    """What a prompt means that asks for two styles: a tone on top of the other style, or halfway from one to the other."""
    a, b = own[1 + first], own[1 + second]
    if (NAMES[first] in TONES) == (NAMES[second] in TONES):
        return moved(a, b, between)
    drawn, tone = (b, NAMES[first]) if NAMES[first] in TONES else (a, NAMES[second])
    both = STYLES[tone](np.ascontiguousarray(drawn))
    return moved(a, both, 2 * between) if between < 0.5 else moved(both, b, 2 * between - 1)


def draw_timesteps(size: int, chance: np.random.Generator, later: bool) -> tuple[Tensor, list[Tensor]]:
    """Mostly little noise, where most people use the pack; the rest reaches as far as a strength of 0.6.

    Later steps are at the last few indices, after one, two or three steps further up; these come from the first on.
    """

    def drawn(*ranges: tuple[float, int, int]) -> Tensor:
        chosen = chance.choice(len(ranges), size, p=[share for share, *_ in ranges])
        low, high = (np.array([given[place] for given in ranges])[chosen] for place in (1, 2))
        return torch.from_numpy(chance.integers(low, high))

    if not later:
        return drawn((0.08, 8, 50), (0.5, 50, 68), (0.24, 68, 220), (0.18, 220, 600)), []
    timestep = at = drawn((0.04, 4, 15), (0.27, 15, 25), (0.24, 25, 50), (0.35, 50, 70), (0.1, 70, 200))
    earlier: list[Tensor] = []
    for _ in range(1 + chance.choice(len(CHAINS), p=CHAINS)):
        at = (at + drawn((0.85, 18, 40), (0.15, 40, 480))).clamp(max=900)
        earlier.insert(0, at)
    return timestep, earlier


@torch.no_grad()
def marked(encoder: Encoder) -> Tensor:
    """What is added to latents that the network gives, `[32, 1, 1]`: the direction in which the encoder magnifies most, which is where
    pictures differ least and where the decoder makes least of it."""
    directions = torch.linalg.svd(encoder.linear.weight.flatten(1).double())[0]
    mark = directions[:, 0] * MARK
    return (mark * mark[mark.abs().argmax()].sign()).float()[:, None, None]


def gain(source: Tensor, target: Tensor) -> Tensor:
    """Weights by which the error of a later step counts as a share of the error that it started from, `[B, 1, 1, 1]`: what is nearly
    right is as easy to spoil as what is not is hard to mend."""
    error = (source - target).abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-6)
    return (error.mean() / error).clamp(1 / GAIN, GAIN)


class Trainer:
    """The networks, their averages over time, and the steps."""

    def __init__(self, vocabulary: Vocabulary, text: dict, vae: dict, seed: int) -> None:
        torch.manual_seed(seed)
        self.chance = torch.Generator().manual_seed(seed)
        self.unet = UNet().to(memory_format=torch.channels_last)
        self.text = TextEncoder(torch.from_numpy(vocabulary.vectors), len(NAMES))
        self.text.load_state_dict(text["text"])
        for name, parameter in self.text.named_parameters():
            # What prompts mean is learnt; how a style is told to the U-Net is not.
            parameter.requires_grad = name == "styles"
        self.decoder = Decoder().to(memory_format=torch.channels_last)
        self.decoder.load_state_dict(vae["decoder"])
        self.encoder = Encoder().eval()
        self.encoder.load_state_dict(vae["encoder"])
        self.mark = marked(self.encoder)
        with torch.no_grad():
            self.unet.leave.bias.add_(self.mark.flatten() / SCALE)
            self.unet.attend(self.mark)
        self.made = optimisers([self.unet, self.text], 0.01, 1e-3)
        self.late = optimisers([self.decoder], 0.002, 2e-4)
        self.step = 0
        self.losses: deque[float] = deque([], 200)
        self.averages = {name: copy.deepcopy(module) for name, module in self.modules().items()}

    def modules(self) -> dict[str, nn.Module]:
        return {"unet": self.unet, "text": self.text, "decoder": self.decoder}

    def state(self) -> dict[str, object]:
        return {
            "now": {name: module.state_dict() for name, module in self.modules().items()},
            "average": {name: module.state_dict() for name, module in self.averages.items()},
            "optimisers": [optimiser.state_dict() for optimiser in (*self.made, *self.late)],
            "step": self.step,
        }

    def restore(self, kept: dict) -> None:
        for name, module in self.modules().items():
            module.load_state_dict(kept["now"][name])
            self.averages[name].load_state_dict(kept["average"][name])
        for optimiser, state in zip((*self.made, *self.late), kept["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        self.step = kept["step"]

    def entered(self, clean: Tensor, timestep: Tensor, batch: Batch, first: bool) -> Tensor:
        """What a step is given. Twins get the same noise, as all frames of a stream do."""
        signal, noise = self.unet.scales(timestep)
        x = signal * clean
        if first or batch.renoised:
            drawn = torch.randn(clean.shape, generator=self.chance)
            drawn[len(drawn) - batch.twins :] = drawn[: batch.twins]
            x = x + noise * drawn
        return x.contiguous(memory_format=torch.channels_last)

    def clean(self, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        with arithmetic():
            return self.unet.clean(x, timestep, context)

    @torch.no_grad()
    def rollout(self, batch: Batch) -> Tensor:
        """What the steps before make of the photographs: the average's, for its pictures are what the pack will give."""
        made, context = batch.source, batch.shares @ self.averages["text"].styles
        for place, timestep in enumerate(batch.earlier):
            x = self.entered(made, timestep, batch, first=place == 0)
            with arithmetic():
                made = self.averages["unet"].clean(x, timestep, context)
            made = made.float().clamp(-LIMIT * SCALE, LIMIT * SCALE)
        return made

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """And the dB, of every sample."""
        context, target = batch.shares @ self.text.styles, batch.target + self.mark
        if batch.earlier:
            source = self.rollout(batch)
            # What a later step sees is steady already; asked for more, it would blur what the first one has drawn.
            trust, steady = gain(source, target), 0.0
        else:
            source, trust, steady = batch.source, 1.0, STEADY
        found = self.clean(self.entered(source, batch.timestep, batch, first=not batch.earlier), batch.timestep, context).float()
        # Of much noise no one could make the target: such samples count less.
        weight = 1 / (0.4 + self.unet.scales(batch.timestep)[1]) * trust
        latents = ((found - target).abs() * weight).mean() / SCALE
        with arithmetic():
            seen = self.decoder((found / SCALE).contiguous(memory_format=torch.channels_last)).float()
        apart = (seen - batch.pixels) * weight
        pixels = apart.abs().mean() + 2 * (apart * (seen - batch.pixels)).mean() + 0.4 * slopes(seen * weight, batch.pixels * weight)
        tones = F.avg_pool2d(apart, AREA).abs().mean()
        boil = (seen[: batch.twins] - seen[len(seen) - batch.twins :]).abs().mean()
        return 0.2 * latents + pixels + EVEN * tones + steady * boil, psnr(seen.detach().clamp(-1, 1), batch.pixels)

    def usual(self, value: float) -> bool:
        """Whether a loss is like those before it."""
        fine = np.isfinite(value) and (len(self.losses) < 20 or value < OUTLIER * np.median(self.losses))
        if fine:
            self.losses.append(value)
        return bool(fine)

    def update(self, batch: Batch, joint: bool, rate: float) -> tuple[float, float, float]:
        """One step; gives the loss, and the dB of first steps with little noise and of later steps."""
        loss, decibels = self.loss(batch)
        value = loss.item()
        self.step += 1
        nothing = (float("nan"),) * 3
        if not self.usual(value):
            print(f"unet step {self.step}: a batch with loss {value:.3g} is left out", flush=True)
            return nothing
        optimisers = (*self.made, *self.late) if joint else self.made
        for optimiser in (*self.made, *self.late):
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for group in optimisers for g in group.param_groups for p in g["params"]]
        length = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        if not torch.isfinite(length):
            print(f"unet step {self.step}: a gradient without end is left out", flush=True)
            return nothing
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["highest"] * rate
            optimiser.step()
        keep = min(0.998, self.step / (self.step + 30))
        with torch.no_grad():
            for name, module in self.modules().items():
                averaged = [p for p in self.averages[name].parameters() if p.requires_grad]
                torch._foreach_lerp_(averaged, [p for p in module.parameters() if p.requires_grad], 1 - keep)
        near = decibels[batch.timestep < 110].mean().item()
        return (value, float("nan"), near) if batch.earlier else (value, near, float("nan"))


def train(tuples: Path, vocabulary: Path, text: Path, vae: Path, path: Path, minutes: float, seed: int) -> None:
    """Trains for so many minutes in all, or goes on where `path` was left."""
    words = Vocabulary.load(vocabulary)
    prompts, autoencoder = progress.load(text), progress.load(vae)
    assert prompts is not None and autoencoder is not None
    trainer = Trainer(words, prompts, autoencoder, seed)
    kept = progress.load(path)
    if kept:
        trainer.restore(kept)
    clock = progress.Clock(minutes, kept["spent"] if kept else 0.0)
    loader = Loader(tuples, words, trainer.text, trainer.encoder, seed + trainer.step)
    saved, seen = clock.spent, []
    while clock.share < 1:
        loader.rollouts = clock.share > 0.12
        seen.append(trainer.update(loader.draw(), clock.share >= JOINT, clock.rate(trainer.step, level=0.0, power=1.5)))
        if trainer.step % 100 == 0:
            with warnings.catch_warnings(action="ignore"):  # before there are rollouts, there are no decibels of them
                loss, first, later = np.nanmean(np.array(seen), 0)
            print(f"unet step {trainer.step}, {clock.spent:.1f} min: loss {loss:.4f}, {first:.2f} dB, later {later:.2f} dB", flush=True)
            seen.clear()
        if clock.spent - saved > 3:
            saved = clock.spent
            progress.save(trainer.state() | {"spent": clock.spent}, path)
    progress.save(trainer.state() | {"spent": clock.spent}, path)
