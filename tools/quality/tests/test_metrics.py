import json

import numpy as np

from pack_quality import bar, metrics
from pack_quality.freetext import PROMPTS
from pack_train.captions import PHRASES
from pack_train.styles import STYLES


def disc(radius: int = 40, centre: int = 64) -> np.ndarray:
    rows, columns = np.mgrid[0:128, 0:128]
    inside = (rows - 64) ** 2 + (columns - centre) ** 2 < radius**2
    return np.repeat((inside * 180 + 30).astype(np.uint8)[..., None], 3, 2)


def test_psnr_is_that_of_a_known_error():
    a = np.full((8, 8, 3), 100, np.uint8)
    assert abs(metrics.psnr(a, a + 10) - 20 * np.log10(255 / 10)) < 1e-6
    assert metrics.psnr(a, a) == 99


def test_edges_are_kept_or_not():
    assert metrics.edge_f1(disc(), disc()) == 1
    assert metrics.edge_f1(disc(), 255 - disc()) > 0.95
    assert metrics.edge_f1(disc(), disc(20)) < 0.2
    assert metrics.edge_f1(disc(), np.zeros_like(disc())) == 0


def test_what_moves_with_the_source_has_no_warp_error():
    texture = np.random.default_rng(1).integers(0, 60, (128, 128, 3), dtype=np.uint8)
    texture = np.repeat(np.repeat(texture[::8, ::8], 8, 0), 8, 1)
    before = np.clip(disc().astype(int) + texture, 0, 255).astype(np.uint8)
    after = np.roll(before, 2, 1)
    moved = metrics.warp_error(before, after, 255 - before, 255 - after)
    boiling = np.random.default_rng(2).integers(0, 255, before.shape, dtype=np.uint8)
    assert moved < 4
    assert metrics.warp_error(before, after, 255 - before, boiling) > 20


def test_noise_is_as_strong_as_asked():
    grey = np.full((64, 64, 3), 128, np.uint8)
    assert 1.8 < metrics.noisy(grey, 2, 1).astype(float).std() < 2.2
    assert not np.array_equal(metrics.noisy(grey, 2, 1), metrics.noisy(grey, 2, 2))


def test_free_text_is_unheard_of_and_names_styles():
    assert len(PROMPTS) == 100
    phrases = {phrase for told in PHRASES.values() for phrase in told.split("|")}
    for prompt, sensible in PROMPTS:
        assert prompt not in phrases, prompt
        assert set(sensible.split()) <= set(STYLES), prompt


def figures(psnr: float) -> dict:
    style = {"psnr": psnr, "edge_f1": 0.7, "flicker": 0.3, "worst": 0}
    return {"styles": 30, "one": {"noir": style}, "two": {"noir": style | {"psnr": psnr + 1}}}


def test_the_bar_tells_what_is_missed():
    assert "**missed**" not in bar.table(figures(25))
    assert "| 16.00 dB | >= 24 | **missed** |" in bar.table(figures(16))
    json.dumps(figures(20))


def test_rising_is_told_from_falling():
    assert bar.monotone([[1, 2.0], [2, 2.0], [3, 5.0]])
    assert not bar.monotone([[1, 2.0], [2, 1.5]])
