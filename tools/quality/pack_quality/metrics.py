"""What is measured on pictures, `uint8[H, W, 3]` RGB."""

import cv2
import numpy as np


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """In dB; 99 for equal pictures."""
    error = ((a.astype(np.float64) - b) ** 2).mean()
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference, of 255."""
    return float(np.abs(a.astype(np.float64) - b).mean())


def edge_map(picture: np.ndarray) -> np.ndarray:
    """Canny's edges with thresholds that follow the picture's own contrast, so that a pale drawing has as many as a photo."""
    grey = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (0, 0), 1.4)
    across, down = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    high = max(20.0, float(np.percentile(np.hypot(across, down), 90)))
    return cv2.Canny(grey, 0.4 * high, high) > 0


def edge_f1(source: np.ndarray, result: np.ndarray, tolerance: int = 2) -> float:
    """How well the edges of the result lie on those of the source, up to `tolerance` pixels: 0 to 1.

    A line drawn along an edge has two edges of its own, one on either side, hence the tolerance.
    """
    a, b = edge_map(source), edge_map(result)
    if not a.any() or not b.any():
        return float(a.any() == b.any())
    kernel = np.ones((2 * tolerance + 1,) * 2, np.uint8)
    near_a, near_b = (cv2.dilate(edges.astype(np.uint8), kernel) > 0 for edges in (a, b))
    precision, recall = near_a[b].mean(), near_b[a].mean()
    return 0.0 if precision + recall == 0 else float(2 * precision * recall / (precision + recall))


def noisy(picture: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    """The picture with a camera's noise."""
    noise = np.random.default_rng(seed).standard_normal(picture.shape) * sigma
    return np.clip(np.round(picture + noise), 0, 255).astype(np.uint8)


def warp_error(before: np.ndarray, after: np.ndarray, painted_before: np.ndarray, painted_after: np.ndarray) -> float:
    """How much of the painted picture changes that does not move with the source, of 255.

    The optical flow between the source frames carries the earlier painting to the later; where the flow does not carry the
    source itself (uncovered ground), nothing is compared.
    """
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (before, after)]
    flow = cv2.calcOpticalFlowFarneback(grey[1], grey[0], None, 0.5, 4, 15, 3, 5, 1.2, 0)
    rows, columns = np.mgrid[0 : flow.shape[0], 0 : flow.shape[1]].astype(np.float32)

    def carried(picture: np.ndarray) -> np.ndarray:
        moved = cv2.remap(picture, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return moved.astype(np.float64)

    followed = np.abs(carried(before) - after).mean(2) < 8
    if not followed.any():
        return float("nan")
    return float(np.abs(carried(painted_before) - painted_after).mean(2)[followed].mean())
