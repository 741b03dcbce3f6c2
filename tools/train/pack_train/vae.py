"""The autoencoder: a picture as latents that survive noise."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import progress
from .arithmetic import arithmetic
from .muon import Muon
from .networks import PATCH, Decoder, Encoder, linear_start

CROP = 64
BATCH = 24
"""Many small parts rather than few large ones: they differ more, which brings 1 dB in the same time."""
CALM, LOUD = (0.0, 0.05), (0.05, 0.3)
"""Deviations of the noise put on the latents. The calm part keeps the decoder sharp; the loud part (a third of the pictures)
makes the encoder spread a picture over all channels, for the diffusion starts from noisy latents."""
RATES = 0.003, 3e-4
"""Highest rates of Muon and AdamW."""
SAMPLE = 600
"""Parts of pictures from which the linear ways start: 150 000 patches."""


def to_tensor(pictures: np.ndarray) -> Tensor:
    """`uint8[B, H, W, 3]` to `float32[B, 3, H, W]` of -1 to 1, channels last in memory."""
    tensor = torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2)
    return (tensor.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def slopes(a: Tensor, b: Tensor) -> Tensor:
    """Mean difference of the gradients, at full and at half size: what a mean over colours does not see."""
    total = torch.zeros(())
    for _ in range(2):
        difference = a - b
        total = total + difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return total


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Per picture of -1 to 1, in dB."""
    return -10 * torch.log10(((a - b) ** 2).mean((1, 2, 3)) / 4)


def optimisers(modules: list[torch.nn.Module], muon: float, adam: float) -> list[torch.optim.Optimizer]:
    """Muon for the hidden convolutions and matrices, AdamW for the rest: the first and last layers, vectors, biases."""
    hidden, rest = [], []
    for module in modules:
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            flat = parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) >= 32
            outer = any(part in name for part in ("enter", "leave", "linear", "position", "modulation"))
            (hidden if flat and not outer else rest).append(parameter)
    made: list[torch.optim.Optimizer] = [Muon(hidden, lr=muon)]
    made.append(torch.optim.AdamW(rest, lr=adam, betas=(0.9, 0.98), weight_decay=1e-3))
    for optimiser in made:
        for group in optimiser.param_groups:
            group["highest"] = group["lr"]
    return made


def draw(pictures: np.ndarray, size: int, chance: np.random.Generator) -> Tensor:
    """Parts of pictures of all kinds, `[size, 3, CROP, CROP]`."""
    count, kinds, side = pictures.shape[:3]
    batch = np.empty((size, CROP, CROP, 3), np.uint8)
    for row in range(size):
        # The camera's picture and the photograph are a quarter of all: everything begins with them.
        kind = chance.integers(2) if chance.random() < 0.25 else chance.integers(kinds)
        # At any pixel, so that textures are not learnt at the one phase that they have to the latents.
        top, left = chance.integers(side - CROP + 1, size=2)
        batch[row] = pictures[chance.integers(count), kind, top : top + CROP, left : left + CROP]
    return to_tensor(batch)


def train(tuples: Path, path: Path, minutes: float, seed: int) -> None:
    """Trains for so many minutes in all, or goes on where `path` was left."""
    pictures = np.load(tuples, mmap_mode="r")
    torch.manual_seed(seed)
    encoder, decoder = Encoder(), Decoder()
    encoder.to(memory_format=torch.channels_last)
    decoder.to(memory_format=torch.channels_last)
    made = optimisers([encoder, decoder], *RATES)
    kept = progress.load(path)
    step = 0
    if kept:
        encoder.load_state_dict(kept["encoder"])
        decoder.load_state_dict(kept["decoder"])
        for optimiser, state in zip(made, kept["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        step = kept["step"]
    else:
        patches = F.pixel_unshuffle(draw(pictures, SAMPLE, np.random.default_rng(seed)), PATCH)
        linear_start(encoder, decoder, patches.permute(0, 2, 3, 1).reshape(-1, 3 * PATCH**2))
    clock = progress.Clock(minutes, kept["spent"] if kept else 0.0)
    chance = np.random.default_rng([seed, step])
    saved = clock.spent
    average = 0.0

    def save() -> None:
        state = {"encoder": encoder.state_dict(), "decoder": decoder.state_dict(), "step": step, "spent": clock.spent}
        progress.save(state | {"optimisers": [optimiser.state_dict() for optimiser in made]}, path)

    while clock.share < 1:
        x = draw(pictures, BATCH, chance)
        loud = torch.rand(BATCH, 1, 1, 1) < 0.33
        low, high = torch.where(loud, LOUD[0], CALM[0]), torch.where(loud, LOUD[1], CALM[1])
        with arithmetic():
            latents = encoder(x).float()
            noisy = latents + (low + (high - low) * torch.rand(BATCH, 1, 1, 1)) * torch.randn_like(latents)
            back = decoder(noisy.contiguous(memory_format=torch.channels_last)).float()
        weight = torch.where(loud, 0.5, 1.0)
        loss = ((back - x).abs() * weight).mean() + 2 * ((back - x) ** 2 * weight).mean() + 0.5 * slopes(back * weight, x * weight)
        for optimiser in made:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*encoder.parameters(), *decoder.parameters()], 1.0)
        rate = clock.rate(step)
        for optimiser in made:
            for group in optimiser.param_groups:
                group["lr"] = group["highest"] * rate
            optimiser.step()
        step += 1
        average = loss.item() if step == 1 else 0.98 * average + 0.02 * loss.item()
        if step % 200 == 0:
            calm = psnr(back.detach(), x)[~loud[:, 0, 0, 0]].mean()
            print(f"vae step {step}, {clock.spent:.1f} min: loss {average:.4f}, {calm:.1f} dB", flush=True)
        if clock.spent - saved > 3:
            saved = clock.spent
            save()
    save()


@torch.no_grad()
def report(tuples: Path, vae: Path) -> None:
    """Prints what the autoencoder loses."""
    from .styles import STYLES

    pictures = np.load(tuples, mmap_mode="r")
    state = progress.load(vae)
    assert state is not None
    encoder, decoder = Encoder().eval(), Decoder().eval()
    encoder.load_state_dict(state["encoder"])
    decoder.load_state_dict(state["decoder"])
    lost = []
    for index in range(0, len(pictures), 24):
        x = to_tensor(pictures[index])
        lost.append(psnr(decoder(encoder(x)).clamp(-1, 1), x).numpy())
    names = ["camera", *STYLES]
    print("autoencoder, dB: " + ", ".join(f"{n} {v:.1f}" for n, v in zip(names, np.mean(lost, 0), strict=True)), flush=True)
