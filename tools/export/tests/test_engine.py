"""The engine runs the packs. Skipped where the binary is not built (`make build`)."""

import os
import pathlib
import subprocess

import numpy
import PIL.Image
import pytest

BINARY = pathlib.Path(os.environ.get("LIVEDIFFUSION_BINARY", pathlib.Path(__file__).parents[3] / "target/release/livediffusion"))

pytestmark = pytest.mark.skipif(not BINARY.is_file(), reason=f"{BINARY} is not built: make build")

FRAMES = 6


def call(pack, out, *arguments):
    """`livediffusion run` on a test pattern; its pictures go into the folder `out`."""
    command = [BINARY, "run", "--model", pack, "--input", "test://ball", "--frames", FRAMES, "--output", f"{out}/", *arguments]
    # ONNX Runtime is where `make setup` put it; what the engine measures of these packs is forgotten.
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    installed = pathlib.Path(os.environ.get("LIVEDIFFUSION_CACHE") or f"{home}/livediffusion")
    cache = out.parent / "cache"
    if not cache.exists():
        cache.mkdir()
        (cache / "ort").symlink_to(installed / "ort")
    environment = os.environ | {"LIVEDIFFUSION_CACHE": str(cache)}
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment, timeout=300)


def pictures(pack, out, *arguments):
    done = call(pack, out, *arguments)
    assert done.returncode == 0, done.stderr
    files = sorted(out.glob("*.png"))
    assert len(files) == FRAMES, done.stderr
    return numpy.stack([numpy.asarray(PIL.Image.open(file).convert("RGB")) for file in files]).astype(int)


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
@pytest.mark.parametrize("name", ["sd15", "sd-turbo", "sdxl-turbo", "lcm"])
def test_every_family_runs(pack, name, provider, tmp_path):
    frames = pictures(pack(name, "--dtype", "f32"), tmp_path / "out", "--provider", provider)
    assert frames.std() > 1, "the pictures are empty"


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
@pytest.mark.parametrize("name", ["sd15", "sdxl-turbo"])
def test_ready_keys_and_values_give_the_same_pictures(pack, name, provider, tmp_path):
    arguments = ("--provider", provider, "--precision", "f32", "--negative-prompt", "blue", "--cfg", "full", "--guidance", "2",
                 "--t-index", "16,32", "--prompt")
    plain = pictures(pack(name, "--dtype", "f32"), tmp_path / "plain", *arguments, "an oil painting")
    ready = pictures(pack(name, "--dtype", "f32", "--prompt-kv"), tmp_path / "ready", *arguments, "an oil painting")
    other = pictures(pack(name, "--dtype", "f32", "--prompt-kv"), tmp_path / "other", *arguments, "a blue forest")
    assert abs(plain - ready).max() <= 1
    assert abs(ready - other).max() > 1, "the prompt does nothing"


@pytest.mark.parametrize("variant", [("f16", "--prompt-kv", "--attention", "fused"), ("f16",), ("f32", "--attention", "fused")], ids=" ".join)
def test_variants_run(pack, variant, tmp_path):
    dtype, *arguments = variant
    same = ("--provider", "cpu", "--t-index", "35,45")
    plain = pictures(pack("sd15", "--dtype", "f32"), tmp_path / "plain", *same)
    frames = pictures(pack("sd15", "--dtype", dtype, *arguments), tmp_path / "out", *same)
    assert abs(frames - plain).mean() < 2


def test_weights_in_8_bits_run(pack, tmp_path):
    folder = pack("sd-turbo", "--dtype", "f32", "--int8")
    pictures(folder, tmp_path / "out", "--provider", "cpu", "--precision", "int8")


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
@pytest.mark.parametrize("name", ["sd15", "sdxl-turbo"])
def test_a_controlnet_sees_the_edges_of_each_frame(pack, control, name, provider, tmp_path):
    folder = pack(name, "--dtype", "f32", "--controlnet", control(name))
    same = ("--provider", provider, "--precision", "f32")
    seen = (*same, "--preprocessor", "canny", "--canny-low", "50", "--canny-high", "100", "--control-scale")
    without, full = (pictures(folder, tmp_path / scale, *seen, scale) for scale in ("0", "1"))
    assert abs(full - without).max() > 1, "the ControlNet does nothing"
    # With nothing of it, the pictures are those of the pack without it.
    assert abs(pictures(pack(name, "--dtype", "f32"), tmp_path / "plain", *same) - without).max() <= 1
    # The engine makes edges where nothing is said: pack.toml asks for them.
    usual = pictures(folder, tmp_path / "usual", *same, "--canny-low", "50", "--canny-high", "100", "--control-scale", "1")
    assert abs(usual - full).max() <= 1
    grey = pictures(folder, tmp_path / "grey", *same, "--preprocessor", "gray", "--control-scale", "1")
    assert abs(grey - full).max() > 1, "the preprocessor does nothing"


def test_fused_attention_is_not_for_openvino(pack, tmp_path):
    folder = pack("sd15", "--dtype", "f32", "--attention", "fused")
    refused = call(folder, tmp_path / "out", "--provider", "openvino")
    assert refused.returncode == 2, refused.stderr
    assert "OpenVINO has not the fused attention" in refused.stderr and "hint: --provider cpu" in refused.stderr
    # Left to itself it takes another provider.
    pictures(folder, tmp_path / "auto")


def test_a_unet_without_its_prompt_kv_is_refused(pack, tmp_path):
    import shutil

    folder = tmp_path / "pack"
    shutil.copytree(pack("sd15", "--dtype", "f32", "--prompt-kv"), folder)
    shutil.rmtree(folder / "prompt_kv")
    refused = call(folder, tmp_path / "out")
    assert refused.returncode == 2 and "the pack has no prompt_kv/ that makes it" in refused.stderr, refused.stderr
