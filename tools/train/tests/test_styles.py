import cv2
import numpy as np
import pytest

from pack_train.captions import PHRASES, PROMPTS, Captioner, words
from pack_train.styles import STYLES


def scene(seed: int = 1, height: int = 128, width: int = 160) -> np.ndarray:
    """Soft blobs of colour with an edge through them."""
    noise = np.random.default_rng(seed).random((height, width, 3)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 9)
    soft = (soft - soft.min()) / (soft.max() - soft.min())
    soft[:, width // 2 :] *= 0.5
    return (soft * 255).astype(np.uint8)


def test_every_style_has_a_prompt_and_phrases():
    assert list(PROMPTS) == list(PHRASES) == list(STYLES)
    assert len(STYLES) >= 24
    every = [phrase for told in PHRASES.values() for phrase in told.split("|")]
    assert len(set(every)) == len(every), "a phrase asks for two styles"


@pytest.mark.parametrize("style", STYLES)
def test_a_styliser_keeps_the_shape_and_the_picture(style):
    picture = scene()
    before = picture.copy()
    styled = STYLES[style](picture)
    assert styled.dtype == np.uint8 and styled.shape == picture.shape
    assert np.array_equal(picture, before), "the input is changed in place"
    assert np.array_equal(styled, STYLES[style](picture)), "not deterministic"
    if style != "photo":
        assert np.abs(styled.astype(int) - picture).mean() > 4


@pytest.mark.parametrize("style", STYLES)
def test_textures_are_locked_to_the_screen(style):
    """What moves by 32 pixels looks the same there, away from the borders."""
    picture = scene(2, 192, 256)
    moved = np.roll(picture, 32, 1)
    a = np.roll(STYLES[style](picture), 32, 1)[48:-48, 96:-96].astype(int)
    b = STYLES[style](moved)[48:-48, 96:-96].astype(int)
    assert np.abs(a - b).mean() < 1.0


@pytest.mark.parametrize("style", STYLES)
def test_a_little_noise_changes_little(style):
    """A styliser that decides hard cannot be learnt from noisy latents and flickers."""
    picture = scene(3)
    noisy = np.clip(picture + np.random.default_rng(4).standard_normal(picture.shape) * 2, 0, 255).astype(np.uint8)
    assert np.abs(STYLES[style](picture).astype(int) - STYLES[style](noisy)).mean() < 12


def test_captions_repeat_by_their_seed_and_ask_for_the_style():
    drawn = [Captioner({}, ["gravel"], 7).caption("lava") for _ in range(2)]
    assert drawn[0] == drawn[1]
    captioner = Captioner({}, [], 1)
    known = {word for phrase in PHRASES["lava"].split("|") for word in words(phrase)}
    hits = sum(bool(known & set(words(captioner.caption("lava")))) for _ in range(200))
    assert hits > 190  # now and then the one word is the one that is lost
