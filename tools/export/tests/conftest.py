"""Tiny models and packs of them, each made once."""

import os
import pathlib
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import pytest  # noqa: E402
import tiny  # noqa: E402
import torch  # noqa: E402

from pack_export import cli  # noqa: E402

torch.set_num_threads(int(os.environ.get("LIVEDIFFUSION_TEST_THREADS", "2")))


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """From a name to the folder of that tiny model; `taesd` is one too."""
    folder = tmp_path_factory.mktemp("models")

    def made(name):
        target = folder / name
        if not target.exists():
            (tiny.taesd() if name == "taesd" else tiny.MODELS[name]()).save_pretrained(target)
        return target

    return made


@pytest.fixture(scope="session")
def control(tmp_path_factory):
    """From a tiny model's name, and what is to be different, to the folder of a ControlNet for it."""
    folder, made = tmp_path_factory.mktemp("controls"), {}

    def saved(name, **extra):
        key = (name, str(extra))
        if key not in made:
            made[key] = folder / f"{len(made)}-{name}-control"
            tiny.controlnet(tiny.MODELS[name]().unet, **extra).save_pretrained(made[key])
        return made[key]

    return saved


@pytest.fixture(scope="session")
def pack(model, tmp_path_factory):
    """From a tiny model's name and further arguments to its pack."""
    folder, made = tmp_path_factory.mktemp("packs"), {}

    def export(name, *arguments):
        key = (name, *map(str, arguments))
        if key not in made:
            out = folder / f"{len(made)}-{name}"
            assert cli.main(["--model", str(model(name)), "--out", str(out), *map(str, arguments)]) == 0
            made[key] = out
        return made[key]

    return export
