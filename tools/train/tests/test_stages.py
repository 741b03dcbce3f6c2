"""All stages on three drawn pictures, for seconds: that a pack comes out, that it goes on where it was, and what is refused."""

import json

import cv2
import numpy as np
import onnx
import pytest
import torch

from pack_train import muon, pack, qt_resources, tuples, unet, vae
from pack_train.captions import PROMPTS
from pack_train.styles import STYLES
from pack_train.vocabulary import SPECIAL, Vocabulary


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "photos").mkdir()
    entries = []
    for index in range(3):
        noise = np.random.default_rng(index).random((300, 260, 3)).astype(np.float32)
        soft = cv2.GaussianBlur(noise, (0, 0), 6)
        soft = (soft - soft.min()) / (soft.max() - soft.min())
        cv2.imwrite(str(folder / f"photos/{index}.png"), (soft * 255).astype(np.uint8))
        entries.append({"file": f"photos/{index}.png", "held_out": index == 2, "weight": 1})
    (folder / "manifest.json").write_text(json.dumps({"pictures": entries}))
    return folder


def vocabulary() -> Vocabulary:
    names = [*SPECIAL, *dict.fromkeys(word for prompt in PROMPTS.values() for word in prompt.replace(",", "").split())]
    vectors = np.random.default_rng(1).standard_normal((len(names), 64)).astype(np.float32)
    return Vocabulary({word: place for place, word in enumerate(names)}, vectors, {}, ["stone"])


@pytest.fixture(scope="module")
def work(data, tmp_path_factory):
    torch.manual_seed(1)
    torch.set_num_threads(2)
    folder = tmp_path_factory.mktemp("work")
    vocabulary().save(folder / "vocabulary.npz")
    tuples.make(data, folder / "tuples.npy", 4, 1, 2)
    vae.train(folder / "tuples.npy", folder / "vae.pt", 0.15, 1)
    vae.encode(folder / "tuples.npy", folder / "vae.pt", folder / "latents.npy")
    files = [folder / name for name in ("latents.npy", "tuples.npy", "vocabulary.npz", "vae.pt", "unet.pt")]
    unet.train(*files, 0.3, 1)
    return folder


def test_held_out_pictures_are_not_trained_on(data):
    assert len(tuples.photographs(data)) == 2
    assert len(tuples.photographs(data, held_out=True)) == 1


def test_tuples_hold_the_camera_and_every_style(work):
    made = np.load(work / "tuples.npy", mmap_mode="r")
    assert made.shape == (4, 1 + len(STYLES), 256, 256, 3)
    camera, clean = made[0, 0].astype(int), made[0, 1].astype(int)
    assert 0 < np.abs(camera - clean).mean() < 12
    for place, styliser in enumerate(STYLES.values()):
        assert np.array_equal(made[0, 1 + place], styliser(made[0, 1]))


def test_training_goes_on_where_it_was_left(work, capsys):
    before = torch.load(work / "unet.pt", weights_only=True)
    assert before["step"] > 0
    files = [work / name for name in ("latents.npy", "tuples.npy", "vocabulary.npz", "vae.pt", "unet.pt")]
    unet.train(*files, before["spent"] + 0.1, 1)
    after = torch.load(work / "unet.pt", weights_only=True)
    assert after["step"] > before["step"]


def test_a_pack_comes_out_whole(work, tmp_path):
    out = tmp_path / "pack"
    pack.write(work / "vocabulary.npz", work / "vae.pt", work / "unet.pt", out)
    for part in ("vae_encoder", "vae_decoder", "unet", "text_encoder"):
        onnx.checker.check_model(str(out / part / "model.onnx"))
    assert json.loads((out / "unet/config.json").read_text())["in_channels"] == 16
    assert (out / "pack.toml").read_text().count("[[presets]]") == len(STYLES)
    assert sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) < 24e6
    assert not out.with_name("pack.part").exists()


def test_a_pack_without_training_is_refused(tmp_path, work):
    with pytest.raises(SystemExit, match="no checkpoint"):
        pack.write(work / "vocabulary.npz", work / "vae.pt", tmp_path / "none.pt", tmp_path / "pack")


def test_muon_makes_updates_orthogonal():
    for shape in ((32, 96), (96, 32)):
        update = muon.orthogonal(torch.randn(shape))
        values = torch.linalg.svdvals(update)
        assert 0.5 < values.min() and values.max() < 1.4


def test_timesteps_are_mostly_small():
    drawn = unet.draw_timesteps(4000, torch.Generator().manual_seed(1))
    assert 0.45 < (drawn < 110).float().mean() < 0.7
    assert drawn.min() >= 5 and drawn.max() < 720


def test_what_is_no_resource_file_is_refused(tmp_path):
    (tmp_path / "a.rcc").write_bytes(b"not a resource file at all")
    with pytest.raises(ValueError, match="not a Qt resource file"):
        list(qt_resources.files(tmp_path / "a.rcc"))
