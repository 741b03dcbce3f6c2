"""Every metric on pictures whose figures are known."""

import numpy as np

from pack_quality import metrics


def disc(radius: int = 40, centre: int = 64) -> np.ndarray:
    rows, columns = np.mgrid[0:128, 0:128]
    inside = (rows - 64) ** 2 + (columns - centre) ** 2 < radius**2
    return np.repeat((inside * 180 + 30).astype(np.uint8)[..., None], 3, 2)


def test_psnr_is_that_of_a_known_error():
    a = np.full((8, 8, 3), 100, np.uint8)
    assert abs(metrics.psnr(a, a + 10) - 20 * np.log10(255 / 10)) < 1e-6
    assert metrics.psnr(a, a) == 99


def test_apart_is_the_mean_difference():
    a = np.zeros((4, 4, 3), np.uint8)
    b = a.copy()
    b[:2] = 10
    assert metrics.apart(a, b) == metrics.apart(b, a) == 5


def test_edges_are_kept_or_not():
    assert metrics.edge_f1(disc(), disc()) == 1
    assert metrics.edge_f1(disc(), 255 - disc()) > 0.95
    assert metrics.edge_f1(disc(), disc(20)) < 0.2
    assert metrics.edge_f1(disc(), np.zeros_like(disc())) == 0
    assert metrics.edge_f1(np.zeros_like(disc()), np.zeros_like(disc())) == 1


def test_edges_that_moved_further_than_the_tolerance_are_lost():
    assert metrics.edge_f1(disc(), disc(centre=65)) > 0.9
    assert metrics.edge_f1(disc(), disc(centre=76)) < 0.5


def test_what_moves_with_the_source_has_no_warp_error():
    texture = np.random.default_rng(1).integers(0, 60, (128, 128, 3), dtype=np.uint8)
    texture = np.repeat(np.repeat(texture[::8, ::8], 8, 0), 8, 1)
    before = np.clip(disc().astype(int) + texture, 0, 255).astype(np.uint8)
    after = np.roll(before, 2, 1)
    moved = metrics.warp_error(before, after, 255 - before, 255 - after)
    stuck = metrics.warp_error(before, after, 255 - before, 255 - before)
    boiling = np.random.default_rng(2).integers(0, 255, before.shape, dtype=np.uint8)
    assert moved < 4
    assert stuck > 1.5 * moved
    assert metrics.warp_error(before, after, 255 - before, boiling) > 20


def test_noise_is_as_strong_as_asked():
    grey = np.full((64, 64, 3), 128, np.uint8)
    assert 1.8 < metrics.noisy(grey, 2, 1).astype(float).std() < 2.2
    assert not np.array_equal(metrics.noisy(grey, 2, 1), metrics.noisy(grey, 2, 2))
    assert np.array_equal(metrics.noisy(grey, 2, 1), metrics.noisy(grey, 2, 1))
