"""Muon (Jordan et al., 2024): momentum whose matrices are made orthogonal, for the hidden layers' weights.

A norm-free network this small needs about half the steps that AdamW takes; the orthogonal update also bounds what a single
bad batch can do.
"""

import torch
from torch import Tensor


@torch.no_grad()
def orthogonal(gradient: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly, by Newton and Schulz's iteration of fifth order.

    That multiplies the matrix with polynomials of its square only, so that the iteration is one of the square, which is the
    smaller by far where a convolution has nine taps.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = gradient.shape[0] <= gradient.shape[1]
    x = gradient if wide else gradient.T
    x = x / (x.norm() + 1e-7)
    square = x @ x.T
    one = torch.eye(len(square), dtype=square.dtype, device=square.device)
    product = one
    for step in range(steps):
        factor = torch.addmm(a * one + b * square, square, square, alpha=c)
        product = factor @ product
        if step + 1 < steps:
            square = factor @ square @ factor
    x = product @ x
    return x if wide else x.T


class Muon(torch.optim.Optimizer):
    """For parameters of two and more dimensions; convolutions count as `[outputs, inputs * taps]`."""

    def __init__(self, parameters: list[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(state["momentum"], group["momentum"])
                flat = ahead.reshape(ahead.shape[0], -1)
                scale = max(1, flat.shape[0] / flat.shape[1]) ** 0.5
                update = orthogonal(flat).reshape(parameter.shape)
                # The weight keeps about the length that its shape starts with.
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * scale)
