"""The networks of the pack.

All are free of normalisation layers (their statistics would cost a pass over memory each) and small enough for a CPU. Shapes:
`B` pictures of `H` x `W` pixels, sides multiples of 32, give latents `[B, LATENTS, H / 4, W / 4]`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .captions import TOKENS

LATENTS = 32
"""Channels of a latent, a power of two. A patch of 4 x 4 pixels is 48 values: 32 of them are all but the least of it. With 16, a minute's
training brings a picture back 3.6 dB worse."""
PATCH = 4
"""Pixels a side of what one place of the latents stands for."""
SCALE = 2.0
"""Deviation of the latents that noise is added to: what the autoencoder gives times this, `scaling_factor` in diffusers. A frame is
repainted from its own latents, so that noise only hides it, at 1 twice as much."""
TEXT = 128
"""Width of the text encoder."""
DECIDED = 1.5
"""How much more decided for one style a prompt is taken than the text encoder has learnt. More would leave
hardly any prompt between two styles; 1 leaves those of doubtful meaning there."""
EMBEDDING = 192
"""Width of what time and prompt are told by."""
AWARE = 20.0
"""How loudly the blocks are told that they see a painted picture. What they are told is learnt from nothing, by steps that do not grow
with it: by 1, training would be over before it is heard."""


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, (size - 1) // 2)


def zeroed(layer: nn.Module) -> nn.Module:
    """A layer that gives nothing at first, so that a residual block begins as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = conv(width, width)
        self.second = zeroed(conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))


class Encoder(nn.Module):
    """`[B, 3, H, W]` of -1 to 1 to latents of mean 0 and variance 1.

    A linear map of every patch (`linear_start`) and what a small network adds to it, by its mean and deviation in the long run:
    by those of a batch, as is usual in training, the decoder could not know how bright and how rich in contrast a picture is.
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.linear = conv(3 * PATCH**2, LATENTS, 1)
        self.layers = nn.Sequential(nn.PixelUnshuffle(PATCH), conv(3 * PATCH**2, width), nn.ReLU(), zeroed(conv(width, LATENTS)))
        self.norm = nn.BatchNorm2d(LATENTS, affine=False, momentum=0.02)

    def forward(self, picture: Tensor) -> Tensor:
        raw = self.linear(F.pixel_unshuffle(picture, PATCH)) + self.layers(picture)
        if self.training:
            with torch.no_grad():
                self.norm(raw)
        return F.batch_norm(raw, self.norm.running_mean, self.norm.running_var, eps=self.norm.eps)


class Decoder(nn.Module):
    """Latents to `[B, 3, H, W]` of about -1 to 1: the way back, with a network that knows what pictures look like."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.linear = conv(LATENTS, 3 * PATCH**2, 1)
        self.layers = nn.Sequential(
            conv(LATENTS, width), nn.ReLU(), Residual(width), Residual(width), nn.ReLU(), zeroed(conv(width, 3 * PATCH**2))
        )

    def forward(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(self.linear(latents) + self.layers(latents), PATCH)


def hadamard(size: int) -> Tensor:
    """An orthogonal matrix whose entries all have one magnitude; `size` is a power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.kron(matrix, torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    return matrix / size**0.5


@torch.no_grad()
def linear_start(encoder: Encoder, decoder: Decoder, patches: Tensor) -> None:
    """Sets the linear ways to what is best for patches `[N, 48]` under noise (Lee and Petersen, 1976).

    Principal components, each with the root of its deviation, so that the strong ones keep more of their lead over the noise than
    if all were of unit variance; and spread evenly over all channels, which gives every channel the same variance.
    """
    mean = patches.mean(0)
    variances, axes = torch.linalg.eigh(torch.cov((patches - mean).T).double())
    variances, axes = variances.flip(0)[:LATENTS].clamp(min=1e-8), axes.flip(1)[:, :LATENTS]
    spread = hadamard(LATENTS).double()
    scale = variances.sqrt().mean().sqrt()
    forth = spread @ torch.diag(variances**-0.25) @ axes.T / scale
    back = axes @ torch.diag(variances**0.25) @ spread.T * scale
    encoder.linear.weight.copy_(forth.float()[:, :, None, None])
    encoder.linear.bias.copy_((-forth @ mean.double()).float())
    decoder.linear.weight.copy_(back.float()[:, :, None, None])
    decoder.linear.bias.copy_(mean)


class TextBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, length, width = x.shape
        split = (batch, length, self.heads, width // self.heads)
        q, k, v = (part.reshape(split).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(split[-1]) + mask, -1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class TextEncoder(nn.Module):
    """Token ids `[B, 24]` (0 is padding) to `[B, 24, 128]`; the first token stands for the whole prompt.

    What comes out of every token is a mixture of the styles' own vectors. So a word that no caption had leads to a style or
    to something between styles, never to where the U-Net has not been; and prompts blend as their vectors do. The word
    vectors are frozen: that is what places an unheard word near those that some caption had.
    """

    def __init__(self, vectors: Tensor, styles: int, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.words = nn.Embedding.from_pretrained(vectors, freeze=True)
        self.project = nn.Linear(vectors.shape[1], TEXT)
        self.position = nn.Parameter(torch.randn(TOKENS, TEXT) * 0.02)
        self.whole = nn.Parameter(torch.randn(TEXT) * 0.02)
        self.blocks = nn.ModuleList([TextBlock(TEXT, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(TEXT)
        self.tell = nn.Linear(TEXT, styles)
        self.styles = nn.Parameter(torch.randn(styles, TEXT))

    def hidden(self, ids: Tensor) -> Tensor:
        """`[B, 24, 128]`."""
        x = self.project(self.words(ids)) + self.position
        x = torch.cat([x[:, :1] + self.whole, x[:, 1:]], 1)
        mask = (1 - (ids != 0).to(x.dtype))[:, None, None, :] * -1e4
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)

    def weights(self, ids: Tensor) -> Tensor:
        """The share of every style in every token, `[B, 24, styles]`; none in padding."""
        told = torch.softmax(self.tell(self.hidden(ids)) * DECIDED, -1)
        return told * (ids != 0).to(told.dtype)[..., None]

    def forward(self, ids: Tensor) -> Tensor:
        return self.weights(ids) @ self.styles


class Modulated(nn.Module):
    """A residual block whose inner channels are scaled and shifted by time and prompt."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = conv(width, width)
        self.second = zeroed(conv(width, width))
        self.modulation = nn.Linear(EMBEDDING, 2 * width)
        nn.init.normal_(self.modulation.weight, std=0.02)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, 1)
        return x + self.second(F.relu(self.first(x) * (1 + scale) + shift))


class CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int = 4, size: int = 24) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        inner = heads * size
        self.norm = nn.LayerNorm(width)
        self.q, self.kv = nn.Linear(width, inner), nn.Linear(TEXT, 2 * inner)
        self.out = zeroed(nn.Linear(inner, width))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        batch, width, height, breadth = x.shape
        pixels = height * breadth
        q = self.q(self.norm(x.flatten(2).transpose(1, 2))).reshape(batch, pixels, self.heads, self.size).transpose(1, 2)
        k, v = (
            part.reshape(batch, context.shape[1], self.heads, self.size).transpose(1, 2)
            for part in self.kv(context).chunk(2, -1)
        )
        weights = torch.softmax(q @ k.transpose(-1, -2) * self.size**-0.5, -1)
        told = self.out((weights @ v).transpose(1, 2).reshape(batch, pixels, self.heads * self.size))
        return x + told.transpose(1, 2).reshape(batch, width, height, breadth)


class Up(nn.Module):
    """Twice the size, joined with what the way down kept."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.spread = conv(inputs, outputs * 4, 1)
        self.join = conv(2 * outputs, outputs, 1)

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        return self.join(torch.cat([F.pixel_shuffle(self.spread(x), 2), kept], 1))


TABLES = ("alphas", "frequencies")
"""Buffers of the U-Net that are not learnt, and not rounded either."""


def alphas_cumprod() -> Tensor:
    """The scaled-linear schedule of Stable Diffusion, `float32[1000]`."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


class UNet(nn.Module):
    """Noisy latents, a time step per row and prompts to the predicted noise, as diffusers' `UNet2DConditionModel`.

    Inside, the clean latents are predicted: their error is what is seen, and it does not grow where there is little noise.
    Latents are of deviation `SCALE`. A picture that a step before has painted is known by its mark (`unet.marked`).
    """

    def __init__(self, widths: tuple[int, int, int, int] = (64, 112, 160, 192)) -> None:
        super().__init__()
        a, b, c, d = widths
        self.register_buffer("alphas", alphas_cumprod())
        self.register_buffer("frequencies", torch.exp(-math.log(10000) * torch.arange(32) / 32))
        self.register_buffer("mark", torch.zeros(LATENTS))
        self.painted = nn.Parameter(torch.zeros(EMBEDDING))
        self.time = nn.Linear(64, EMBEDDING)
        self.prompt = nn.Linear(TEXT, EMBEDDING)
        self.mix = nn.Linear(EMBEDDING, EMBEDDING)
        self.enter = conv(LATENTS, a)
        self.down0 = Modulated(a)
        self.stride0 = conv(a, b, 4, 2)
        self.down1 = nn.ModuleList([Modulated(b), Modulated(b)])
        self.stride1 = conv(b, c, 4, 2)
        self.down2 = nn.ModuleList([Modulated(c), Modulated(c)])
        self.ask_down2 = CrossAttention(c)
        self.stride2 = conv(c, d, 4, 2)
        self.middle = nn.ModuleList([Modulated(d), Modulated(d)])
        self.ask_middle = CrossAttention(d)
        self.rise2 = Up(d, c)
        self.up2 = nn.ModuleList([Modulated(c), Modulated(c)])
        self.ask_up2 = CrossAttention(c)
        self.rise1 = Up(c, b)
        self.up1 = nn.ModuleList([Modulated(b), Modulated(b)])
        self.rise0 = Up(b, a)
        self.up0 = nn.ModuleList([Modulated(a), Modulated(a), Modulated(a)])
        self.leave = zeroed(conv(a, LATENTS))

    def scales(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Of the signal and of the noise, `[B, 1, 1, 1]` each."""
        alpha = self.alphas[timestep.long().clamp(0, 999)].reshape(-1, 1, 1, 1)
        return alpha.sqrt(), (1 - alpha).sqrt()

    def attend(self, mark: Tensor) -> None:
        """Sets the mark, `[32, 1, 1]`, that painted pictures are known by."""
        self.mark.copy_(mark.flatten() / mark.square().sum())

    def again(self, x: Tensor, signal: Tensor) -> Tensor:
        """Whether `x` is of a picture that was painted already, `[B, 1]`: 1, or 0 for a photograph.

        Told by the mean over the picture. 720 photographs have at most a tenth of the mark there, cuts of 128 pixels an eighth, and
        noise is averaged away; pictures that a styliser drew reach half of it.
        """
        share = (x.mean((2, 3)) * self.mark).sum(1, keepdim=True) / signal.flatten(1)
        return (4 * share - 2).clamp(0, 1)

    def clean(self, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        """The clean latents that `x` was made of."""
        signal, noise = self.scales(timestep)
        variance = (SCALE * signal) ** 2 + noise**2
        again = self.again(x, signal)
        angles = timestep.float()[:, None] * self.frequencies[None]
        told = F.silu(self.time(torch.cat([angles.sin(), angles.cos()], -1)))
        told = F.silu(self.mix(told + self.prompt(context[:, 0]) + again * AWARE * self.painted))
        kept0 = h = self.down0(self.enter(x * variance**-0.5), told)
        h = self.stride0(h)
        for block in self.down1:
            h = block(h, told)
        kept1 = h
        h = self.down2[0](self.stride1(h), told)
        kept2 = h = self.down2[1](self.ask_down2(h, context), told)
        h = self.middle[0](self.stride2(h), told)
        h = self.middle[1](self.ask_middle(h, context), told)
        h = self.up2[0](self.rise2(h, kept2), told)
        h = self.up2[1](self.ask_up2(h, context), told)
        h = self.rise1(h, kept1)
        for block in self.up1:
            h = block(h, told)
        h = self.rise0(h, kept0)
        for block in self.up0:
            h = block(h, told)
        # The second part is the best guess without looking around: Wiener's, and of a painted picture, on which there is no noise, itself.
        # So a step that finds all done has nothing to do, where it would pale the picture else.
        guess = torch.lerp(SCALE**2 * signal / variance, 1 / signal, again[:, :, None, None])
        return self.leave(h).float() * SCALE + x * guess

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        signal, noise = self.scales(timestep)
        return (sample - signal * self.clean(sample, timestep, encoder_hidden_states)) / noise
