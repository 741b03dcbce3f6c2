"""The stylisers: what a frame looks like in each style of the default pack.

A styliser takes an RGB picture, `uint8[H, W, 3]` with sides that are multiples of 32, and gives one of the same kind. A
network that repaints a frame in one step learns a mean over all that could be right, so that whatever cannot be told from
the frame turns to mush. Therefore every styliser is

- deterministic: no random strokes,
- local: what a pixel becomes depends on some 40 pixels around it,
- locked to the screen: textures repeat every 32 pixels, so that the position within a block of latents tells the phase,
- soft where it decides: a hard threshold would turn the noise that diffusion adds into black and white specks.
"""

from collections.abc import Callable

import cv2
import numpy as np

Picture = np.ndarray
"""RGB, `uint8[H, W, 3]`."""
Plane = np.ndarray
"""One value per pixel, `float32[H, W]`, 0 to 1 unless said otherwise."""

cv2.setNumThreads(1)
TILE = 32


def to_unit(picture: Picture) -> np.ndarray:
    """0 to 255 as 0 to 1."""
    return picture.astype(np.float32) / 255


def to_picture(colour: np.ndarray) -> Picture:
    """0 to 1, clipped, as 0 to 255."""
    return (np.clip(colour, 0, 1) * 255 + 0.5).astype(np.uint8)


def luma(colour: np.ndarray) -> Plane:
    """Rec. 601 luma."""
    return colour @ np.array([0.299, 0.587, 0.114], np.float32)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian; `sigma` in pixels."""
    return cv2.GaussianBlur(image, (0, 0), sigma)


def smoothstep(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, and a soft way between."""
    x = np.clip((value - low) / (high - low), 0, 1)
    return x * x * (3 - 2 * x)


def edges(plane: Plane, sigma: float) -> Plane:
    """Strength of the gradient, in luma per pixel."""
    soft = blur(plane, sigma)
    across = cv2.Sobel(soft, cv2.CV_32F, 1, 0) / 8
    down = cv2.Sobel(soft, cv2.CV_32F, 0, 1) / 8
    return np.hypot(across, down)


def relief(plane: Plane, sigma: float) -> Plane:
    """Light from the upper left on the luma as a height; around 0."""
    soft = blur(plane, sigma)
    return (cv2.Sobel(soft, cv2.CV_32F, 1, 0) + cv2.Sobel(soft, cv2.CV_32F, 0, 1)) / 8


def saturate(colour: np.ndarray, factor: float, contrast: float = 1.0, offset: float = 0.0) -> np.ndarray:
    """Colourfulness times `factor`, then contrast about the middle grey."""
    grey = luma(colour)[..., None]
    return np.clip((grey + (colour - grey) * factor - 0.5) * contrast + 0.5 + offset, 0, 1)


def dodge(plane: Plane, sigma: float) -> Plane:
    """The colour dodge of a drawing: 1 on even ground, darker where it is darker than its surroundings."""
    return np.clip(plane / np.maximum(blur(plane, sigma), 1 / 255), 0, 1)


def ramp(plane: Plane, *stops: tuple[float, tuple[int, int, int]]) -> np.ndarray:
    """Colours of 0 to 255 along the luma, as `float32[H, W, 3]`."""
    at = [stop for stop, _ in stops]
    channels = [np.interp(plane, at, [colour[channel] / 255 for _, colour in stops]) for channel in range(3)]
    return np.stack(channels, -1).astype(np.float32)


def soft_levels(plane: np.ndarray, levels: int, hardness: float = 6.0) -> np.ndarray:
    """Posterised to `levels` plateaus with soft steps between."""
    scaled = plane * levels
    base = np.floor(scaled)
    step = 1 / (1 + np.exp(-hardness * (scaled - base - 0.5) * 2))
    return np.clip((base + step - 0.5) / (levels - 1), 0, 1)


def kuwahara(colour: np.ndarray, radius: int) -> np.ndarray:
    """Kuwahara's filter: the mean of the calmest of four quadrants. Gives flat patches with kept edges."""
    size = radius + 1
    grey = colour.mean(2)
    mean = cv2.boxFilter(colour, -1, (size, size), anchor=(0, 0))
    mean_grey = cv2.boxFilter(grey, -1, (size, size), anchor=(0, 0))
    variance = cv2.boxFilter(grey * grey, -1, (size, size), anchor=(0, 0)) - mean_grey * mean_grey
    padding = ((radius, 0), (radius, 0))
    mean = np.pad(mean, (*padding, (0, 0)), mode="edge")
    variance = np.pad(variance, padding, mode="edge")
    height, width = grey.shape
    best = None
    for down in (0, radius):
        for right in (0, radius):
            window = np.s_[down : down + height, right : right + width]
            if best is None:
                best, result = variance[window].copy(), mean[window].copy()
                continue
            calmer = variance[window] < best
            result[calmer] = mean[window][calmer]
            best[calmer] = variance[window][calmer]
    return result


def smooth(colour: np.ndarray, rounds: int = 1) -> np.ndarray:
    """Bilateral: flat areas calm, edges kept."""
    for _ in range(rounds):
        colour = cv2.bilateralFilter(colour, 7, 0.16, 5)
    return colour


def positions(plane: Plane) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every pixel, `float32[H, W]` each."""
    rows, columns = np.mgrid[0 : plane.shape[0], 0 : plane.shape[1]].astype(np.float32)
    return rows, columns


def strokes(seed: int, angle: float, length: int) -> Plane:
    """A tile of strokes in one direction, mean 0 and deviation 1, seamless at its borders."""
    noise = np.tile(np.random.default_rng(seed).standard_normal((TILE, TILE)).astype(np.float32), (3, 3))
    kernel = np.zeros((length, length), np.float32)
    middle = length // 2
    for along in np.linspace(-middle, middle, 4 * length):
        kernel[round(middle + along * np.sin(angle)), round(middle + along * np.cos(angle))] = 1
    drawn = blur(cv2.filter2D(noise, -1, kernel / kernel.sum()), 0.8)[TILE : 2 * TILE, TILE : 2 * TILE]
    return (drawn - drawn.mean()) / drawn.std()


BRUSH = strokes(1, -0.8, 11)
PAPER = strokes(2, 0.0, 3)
WAX = strokes(5, -0.9, 7)


def texture(tile: Plane, like: Plane) -> np.ndarray:
    """A tile laid over the whole picture, `float32[H, W, 1]`."""
    height, width = like.shape[:2]
    return np.tile(tile, (height // TILE + 1, width // TILE + 1))[:height, :width, None]


def photo(picture: Picture) -> Picture:
    return picture


def pencil(picture: Picture) -> Picture:
    grey = luma(to_unit(picture))
    drawn = dodge(grey, 4) ** 1.7 * (0.76 + 0.24 * blur(grey, 3))
    return to_picture(drawn[..., None] * np.array([1, 0.995, 0.97], np.float32))


def crayon(picture: Picture) -> Picture:
    colour = kuwahara(to_unit(picture), 3)
    bright = 1 - (1 - saturate(colour, 2.0, 1.05, 0.08)) * 0.85
    covered = 1 - luma(colour)[..., None] * 0.55
    grain = np.clip(0.42 - 0.5 * texture(WAX, colour), 0, 1) * (1.15 - covered)
    lines = smoothstep(edges(luma(colour), 1.0), 0.02, 0.07)[..., None] * 0.35
    return to_picture(bright * (1 - lines) * (1 - grain) + grain)


def charcoal(picture: Picture) -> Picture:
    grey = luma(to_unit(picture))
    rows, columns = positions(grey)
    soft = blur(grey, 2)
    hatching = np.sin(2 * np.pi * (rows + columns) / 8) * 0.1 * np.clip(1 - soft / 0.67, 0, 1)
    drawn = dodge(grey, 10) ** 2.2 * 0.6 + soft * 0.4 - 0.1 + hatching
    drawn = (drawn - 0.5) * 1.25 + 0.5
    return to_picture(drawn[..., None] * np.array([1, 0.98, 0.95], np.float32))


def ink(picture: Picture) -> Picture:
    grey = luma(to_unit(picture))
    line = blur(grey, 2.6) - blur(grey, 1.2)
    drawn = 1 - smoothstep(line, 0.008, 0.05)
    dark = smoothstep(blur(grey, 1.5), 0.1, 0.26)
    return to_picture(np.repeat((drawn * dark)[..., None], 3, 2))


def engraving(picture: Picture) -> Picture:
    grey = luma(to_unit(picture))
    rows, columns = positions(grey)
    soft = blur(grey, 1.2)
    wave = np.sin(2 * np.pi * (rows - columns * 0.5) / 8) * 0.5 + 0.5
    paper = smoothstep(soft * 1.15 - wave * 0.75, -0.12, 0.28)
    paper = paper * (1 - smoothstep(edges(grey, 1.0), 0.035, 0.1) * 0.7)
    ink_colour, paper_colour = np.array([0.13, 0.1, 0.16], np.float32), np.array([0.96, 0.92, 0.82], np.float32)
    return to_picture(ink_colour + (paper_colour - ink_colour) * paper[..., None])


def comic(picture: Picture) -> Picture:
    calm = smooth(to_unit(picture), 2)
    hsv = cv2.cvtColor(calm, cv2.COLOR_RGB2HSV)
    hsv[..., 1] = np.clip(hsv[..., 1] * 1.5 + 0.04, 0, 1)
    hsv[..., 2] = soft_levels(hsv[..., 2], 4, 4) * 0.8 + 0.2
    line = 1 - smoothstep(edges(luma(calm), 1.0), 0.022, 0.07)
    return to_picture(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * line[..., None])


def oil(picture: Picture) -> Picture:
    patches = saturate(kuwahara(kuwahara(to_unit(picture), 6), 4), 1.75, 1.15)
    ridges = relief(luma(patches), 1)[..., None] * 2.6
    return to_picture(patches + ridges + texture(BRUSH, patches) * 0.055)


def watercolor(picture: Picture) -> Picture:
    washed = blur(kuwahara(blur(to_unit(picture), 1.2), 7), 0.8)
    rims = np.clip(edges(luma(washed), 1.0) * 6.5, 0, 0.37)[..., None]
    pale = saturate(1 - (1 - washed) * 0.6, 2.0)
    return to_picture(pale - rims + 0.016 + texture(PAPER, washed) * 0.022)


def vangogh(picture: Picture) -> Picture:
    patches = kuwahara(to_unit(picture), 6)
    grey = luma(patches)
    rows, columns = positions(grey)
    flow = blur(luma(to_unit(picture)), 4)
    phase = 2 * np.pi * ((columns * 0.5 + rows) / 16 + flow * 3.5)
    waves = np.sin(phase) + 0.45 * np.sin(2 * phase + 1)
    palette = ramp(grey, (0, (6, 12, 60)), (0.27, (20, 60, 160)), (0.5, (60, 135, 200)), (0.7, (240, 200, 60)), (1, (255, 248, 170)))
    painted = palette * 0.65 + saturate(patches, 1.8) * 0.35
    return to_picture(painted + waves[..., None] * np.array([0.1, 0.095, 0.07], np.float32) + texture(BRUSH, grey) * 0.024)


def popart(picture: Picture) -> Picture:
    flat = soft_levels(blur(luma(kuwahara(to_unit(picture), 4)), 1.0), 4, 5)
    return to_picture(ramp(flat, (0, (60, 0, 110)), (0.33, (255, 40, 130)), (0.66, (40, 205, 200)), (1, (255, 242, 100))))


def halftone(picture: Picture) -> Picture:
    grey = luma(to_unit(picture))
    rows, columns = positions(grey)
    dots = (np.cos(2 * np.pi * (columns + 0.5) / 8) + np.cos(2 * np.pi * (rows + 0.5) / 8)) / 4 + 0.5
    inked = smoothstep(dots - np.clip(blur(grey, 1.5) - 0.05, 0, 1), -0.14, 0.14)[..., None]
    ground = ramp(blur(grey, 2), (0, (230, 40, 90)), (0.35, (255, 70, 60)), (0.59, (255, 200, 40)), (1, (255, 250, 225)))
    return to_picture(ground * (1 - inked) + np.array([25, 15, 70], np.float32) / 255 * inked)


def blocks(colour: np.ndarray, side: int) -> np.ndarray:
    """Every block of `side` pixels in its mean colour."""
    height, width = colour.shape[:2]
    small = cv2.resize(colour, (width // side, height // side), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)


def pixel(picture: Picture) -> Picture:
    return to_picture(soft_levels(blocks(saturate(to_unit(picture), 1.35, 1.1), 8), 6, 2))


def gameboy(picture: Picture) -> Picture:
    grey = blocks(to_unit(picture), 4).mean(2)
    flat = soft_levels(np.clip((grey - 0.5) * 1.2 + 0.5, 0, 1), 4, 3)
    return to_picture(ramp(flat, (0, (15, 56, 15)), (0.33, (48, 98, 48)), (0.66, (139, 172, 15)), (1, (202, 220, 120))))


def embroidery(picture: Picture) -> Picture:
    colour = saturate(blocks(to_unit(picture), 8), 1.6, 1.15)
    rows, columns = positions(colour)
    across, down = columns % 8 - 3.5, rows % 8 - 3.5
    stitch = np.exp(-(((np.abs(across) - np.abs(down)) / 1.5) ** 2))
    sheen = 0.5 + 0.6 * stitch + 0.08 * np.sign(across * down) * stitch
    cloth = np.array([0.93, 0.9, 0.82], np.float32)
    gap = (1 - stitch)[..., None] * 0.3
    return to_picture(colour * sheen[..., None] * (1 - gap) + cloth * gap)


def stained(picture: Picture) -> Picture:
    colour = to_unit(picture)
    rows, columns = positions(colour)
    side = 16
    row = (rows // side).astype(int)
    shift = (row % 2) * (side // 2)
    column = ((columns + shift) // side).astype(int)
    mean = cv2.boxFilter(colour, -1, (15, 15))
    height, width = colour.shape[:2]
    glass = mean[np.clip(row * side + 8, 0, height - 1), np.clip(column * side - shift + 8, 0, width - 1)]
    glass = saturate(glass, 2.0, 1.25, 0.04)
    down, across = rows % side, (columns + shift) % side
    border = np.minimum(np.minimum(down, side - 1 - down), np.minimum(across, side - 1 - across))
    lead = np.clip((border - 0.4) / 1.8, 0, 1)[..., None]
    glow = 1 + 0.18 * (np.cos((across - 5) / side * 2.5) * np.cos((down - 5) / side * 2.5))[..., None]
    return to_picture(glass * glow * lead + np.array([0.055, 0.047, 0.063], np.float32) * (1 - lead))


def glow_lines(plane: Plane) -> tuple[Plane, Plane]:
    """Lines where the luma changes, and the light around them."""
    line = smoothstep(edges(cv2.bilateralFilter(plane, 5, 0.12, 3), 1.1), 0.012, 0.06)
    return line, blur(line, 4)


def neon(picture: Picture) -> Picture:
    grey = luma(to_unit(picture))
    line, light = glow_lines(grey)
    hue = ramp(blur(grey, 5), (0, (60, 40, 255)), (0.3, (0, 200, 255)), (0.55, (255, 40, 220)), (0.8, (255, 90, 60)), (1, (255, 230, 80)))
    shine = hue * (line + 0.8 * light)[..., None] + (line**2 * 0.35)[..., None]
    return to_picture(shine + np.array([0.03, 0.015, 0.08], np.float32))


def thermal(picture: Picture) -> Picture:
    grey = blur(luma(to_unit(picture)), 1.5)
    stops = ((0, (10, 0, 60)), (0.24, (80, 0, 160)), (0.43, (220, 20, 100)), (0.63, (255, 120, 0)), (0.8, (255, 230, 30)), (1, (255, 255, 230)))
    return to_picture(ramp(grey, *stops))


def cyberpunk(picture: Picture) -> Picture:
    colour = to_unit(picture)
    grey = np.clip((luma(colour) - 0.5) * 1.3 + 0.47, 0, 1)
    tinted = ramp(grey, (0, (8, 2, 30)), (0.27, (70, 10, 130)), (0.51, (230, 30, 160)), (0.73, (60, 200, 235)), (1, (215, 255, 255)))
    mixed = tinted * 0.75 + colour * 0.25
    return to_picture(mixed + blur(np.clip(mixed - 0.59, 0, 0.41), 5) * 0.9 - 0.03)


def matrix(picture: Picture) -> Picture:
    grey = luma(to_unit(picture))
    rows, columns = positions(grey)
    line, light = glow_lines(grey)
    rain = 0.72 + 0.28 * np.cos(2 * np.pi * columns / 8) * np.cos(np.pi * rows / 8)
    lit = (smoothstep(blur(grey, 1.0), 0.05, 1.05) * 0.75 + line * 0.35 + light * 0.3) * rain
    return to_picture(ramp(np.clip(lit, 0, 1), (0, (0, 8, 2)), (0.5, (0, 150, 45)), (0.85, (90, 255, 120)), (1, (220, 255, 220))))


def blueprint(picture: Picture) -> Picture:
    grey = luma(to_unit(picture))
    rows, columns = positions(grey)
    line = smoothstep(edges(cv2.bilateralFilter(grey, 5, 0.12, 3), 1.0), 0.012, 0.06)
    grid = ((rows % 16 < 1) | (columns % 16 < 1)) * 0.13
    drawn = np.clip(line + grid, 0, 1)[..., None]
    paper = np.array([14, 50, 130], np.float32) / 255 + blur(grey, 3)[..., None] * np.array([8, 30, 45], np.float32) / 255
    return to_picture(paper * (1 - drawn) + np.array([225, 240, 255], np.float32) / 255 * drawn)


def bronze(picture: Picture) -> Picture:
    grey = luma(kuwahara(to_unit(picture), 3))
    height = 0.42 + relief(grey, 1.2) * 4.5 + (blur(grey, 3) - 0.5) * 0.5
    return to_picture(ramp(np.clip(height, 0, 1), (0, (20, 10, 4)), (0.35, (96, 58, 24)), (0.6, (176, 118, 56)), (0.85, (240, 200, 130)), (1, (255, 245, 215))))


def sepia(picture: Picture) -> Picture:
    grey = (luma(to_unit(picture)) - 0.5) * 0.85 + 0.53
    return to_picture(ramp(grey, (0, (45, 25, 12)), (0.5, (160, 120, 75)), (1, (255, 238, 200))))


def noir(picture: Picture) -> Picture:
    grey = (luma(to_unit(picture)) - 0.46) * 1.45 + 0.44
    return to_picture(np.repeat(grey[..., None], 3, 2))


def night(picture: Picture) -> Picture:
    colour = to_unit(picture)
    grey = luma(colour)[..., None]
    dark = (grey * 0.65 + colour * 0.35) * np.array([0.21, 0.36, 0.74], np.float32)
    moon = np.clip(grey - 0.67, 0, 0.33) * np.array([0.8, 0.8, 0.5], np.float32)
    return to_picture(dark + moon + np.array([0, 0.016, 0.086], np.float32))


def underwater(picture: Picture) -> Picture:
    colour = blur(to_unit(picture), 0.8)
    grey = luma(colour)
    rows, columns = positions(grey)
    phase = 2 * np.pi / 32
    caustics = np.sin(phase * (columns + 5 * np.sin(phase * rows))) + np.sin(phase * (rows + 6 * np.sin(phase * 2 * columns)))
    light = np.clip(caustics - 0.6, 0, 1.4)[..., None] * 0.13 * (0.3 + grey[..., None])
    tint = ramp(grey, (0, (0, 22, 48)), (0.5, (10, 120, 140)), (1, (170, 250, 225)))
    return to_picture(tint * 0.72 + colour * np.array([0.12, 0.3, 0.3], np.float32) + light)


def autumn(picture: Picture) -> Picture:
    hsv = cv2.cvtColor(to_unit(picture), cv2.COLOR_RGB2HSV)
    hue = hsv[..., 0]
    hsv[..., 0] = np.interp(hue, [0, 50, 80, 170, 190, 330, 360], [10, 28, 34, 42, 34, 30, 10])
    hsv[..., 1] = np.clip(hsv[..., 1] * 0.9 + 0.2, 0, 1)
    warm = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 0.75 + to_unit(picture) * 0.25
    return to_picture(warm * np.array([1.12, 0.98, 0.72], np.float32) + np.array([0.047, 0.008, 0], np.float32))


def blossom(picture: Picture) -> Picture:
    colour = to_unit(picture)
    red, green, blue = colour[..., 0], colour[..., 1], colour[..., 2]
    leaf = np.clip(green - 0.6 * blue - 0.3 * red, 0, 1)
    grey = luma(colour)
    rose = ramp(grey, (0, (60, 20, 50)), (0.45, (205, 110, 150)), (0.8, (255, 205, 220)), (1, (255, 248, 250)))
    weight = np.clip(0.5 + 2.2 * leaf, 0, 0.95)[..., None]
    dreamy = rose * weight + colour * (1 - weight)
    return to_picture(dreamy + blur(np.clip(dreamy - 0.65, 0, 0.35), 4) * 0.5)


def winter(picture: Picture) -> Picture:
    colour = to_unit(picture)
    grey = np.clip(luma(colour) * 1.15 + 0.07, 0, 1)
    ice = ramp(grey, (0, (18, 34, 64)), (0.35, (105, 140, 180)), (0.67, (205, 225, 242)), (1, (255, 255, 255)))
    return to_picture(ice * 0.82 + colour * 0.18)


def lava(picture: Picture) -> Picture:
    grey = luma(to_unit(picture))
    line, light = glow_lines(grey)
    heat = np.clip(line * 0.75 + light * 0.55 + smoothstep(blur(grey, 2), 0.55, 1.1) * 0.6, 0, 1)
    molten = ramp(heat, (0, (0, 0, 0)), (0.3, (150, 15, 0)), (0.65, (255, 110, 0)), (1, (255, 240, 130)))
    rock = (0.05 + blur(grey, 1.0) * 0.22)[..., None] * np.array([1, 0.9, 0.88], np.float32)
    return to_picture(rock * (1 - heat[..., None]) + molten)


STYLES: dict[str, Callable[[Picture], Picture]] = {
    styliser.__name__: styliser
    for styliser in (
        photo, pencil, crayon, charcoal, ink, engraving, comic, oil, watercolor, vangogh, popart, halftone, pixel, gameboy,
        embroidery, stained, neon, thermal, cyberpunk, matrix, blueprint, bronze, sepia, noir, night, underwater, autumn,
        blossom, winter, lava,
    )
}  # fmt: skip
"""Every style of the pack by its name. The order is that of the presets."""
