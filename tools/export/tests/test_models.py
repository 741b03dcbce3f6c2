"""What is read, what is written beside the graphs, and what is refused."""

import json
import shutil
import tomllib

import checkpoint
import pytest
from reference import CALLS, assert_close, load, predicted, predicted_by, run, unet_inputs

from pack_export import cli, graph


def export(model, out, *arguments):
    return cli.main(["--model", str(model), "--out", str(out), *map(str, arguments)])


def test_a_checkpoint_in_one_file(model, tmp_path):
    import torch

    pipe = load(model("sd15"))
    file, out = checkpoint.save(pipe, tmp_path / "model.safetensors"), tmp_path / "pack"
    # Of the folder beside it, only the small files count.
    config = tmp_path / "config"
    shutil.copytree(model("sd15"), config, ignore=shutil.ignore_patterns("*.safetensors"))
    assert export(file, out, "--config", config) == 0
    inputs, extra = unet_inputs(pipe.unet, *CALLS[1])
    assert_close(predicted_by(out, inputs), predicted(pipe.unet, inputs, extra), 1e-4)
    latents, ids = torch.randn(1, 4, 8, 8), torch.randint(0, 1000, (1, 77))
    with torch.no_grad():
        decoded, encoded = pipe.vae.decode(latents).sample, pipe.text_encoder(ids).last_hidden_state
    assert_close(run(out, "vae_decoder", latent_sample=latents)["sample"], decoded, 1e-4)
    assert_close(run(out, "text_encoder", input_ids=ids)["last_hidden_state"], encoded, 1e-4)
    assert (out / "tokenizer/tokenizer.json").is_file() and (out / "scheduler/scheduler_config.json").is_file()


@pytest.mark.parametrize("name, scheduler, cfg", [("sd15", "dpmpp-2m", "self"), ("sd-turbo", "turbo", "none"),
                                                  ("sdxl-turbo", "turbo", "none"), ("lcm", "lcm", "none")])
def test_defaults_of_the_families(pack, name, scheduler, cfg):
    folder = pack(name, "--dtype", "f32")
    defaults = tomllib.loads((folder / "pack.toml").read_text())["defaults"]
    assert (defaults["scheduler"], defaults["cfg"], defaults["size"]) == (scheduler, cfg, "64x64")


def test_what_lies_beside_the_graphs(model, pack):
    folder = pack("sdxl-turbo", "--dtype", "f32")
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "ORTStableDiffusionXLPipeline" and index["force_zeros_for_empty_prompt"] is True
    for part in ("unet", "vae_encoder", "vae_decoder", "text_encoder", "text_encoder_2"):
        assert part in index and json.loads((folder / part / "config.json").read_text())
    for name in ("tokenizer", "tokenizer_2"):
        files = sorted(path.name for path in (model("sdxl-turbo") / name).iterdir())
        assert files == sorted(path.name for path in (folder / name).iterdir())
    assert json.loads((folder / "scheduler/scheduler_config.json").read_text())["timestep_spacing"] == "trailing"
    assert json.loads((folder / "vae_decoder/config.json").read_text())["scaling_factor"] == 0.18215


def test_large_weights_lie_beside_the_graph(model, tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "INLINE_BYTES", 1 << 20)
    assert export(model("sd15"), tmp_path / "pack") == 0
    assert (tmp_path / "pack/unet/model.onnx_data").stat().st_size > 1 << 20
    assert (tmp_path / "pack/unet/model.onnx").stat().st_size < 1 << 20
    unet = load(model("sd15")).unet
    inputs, extra = unet_inputs(unet, *CALLS[1])
    assert_close(predicted_by(tmp_path / "pack", inputs), predicted(unet, inputs, extra), 1e-4)


def refusals(model, folder):
    """Arguments, the exit code and what the error says."""
    sd15, out = model("sd15"), folder / "pack"
    (folder / "taken").mkdir()
    (folder / "noise.safetensors").write_bytes(b"no checkpoint at all")
    (folder / "noise.ckpt").write_bytes(b"no checkpoint at all")
    (folder / "empty").mkdir()
    broken = folder / "broken"
    shutil.copytree(sd15, broken)
    (broken / "model_index.json").write_text("{")
    headless = folder / "headless"
    shutil.copytree(sd15, headless)
    shutil.rmtree(headless / "text_encoder")
    thin = folder / "thin"
    shutil.copytree(sd15, thin)
    (thin / "unet/diffusion_pytorch_model.safetensors").unlink()
    cut = folder / "cut"
    shutil.copytree(sd15, cut)
    weights = cut / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    other = folder / "other"
    other.mkdir()
    (other / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    return [
        ([], 2, "--model"),
        (["--model", folder / "nowhere", "--out", out], 2, "nowhere does not exist"),
        (["--model", sd15, "--out", folder / "taken"], 2, "taken exists"),
        (["--model", sd15, "--out", folder / "no/such/pack"], 2, "is no folder"),
        (["--model", sd15, "--out", out, "--dtype", "f8"], 2, "f8"),
        (["--model", sd15, "--out", out, "--config", "x"], 2, "--config"),
        (["--model", sd15, "--out", sd15, "--force"], 2, "holds the model itself"),
        (["--model", folder / "noise.safetensors", "--out", out], 3, "noise.safetensors"),
        (["--model", folder / "noise.ckpt", "--out", out], 3, "noise.ckpt"),
        (["--model", sd15 / "unet/diffusion_pytorch_model.safetensors", "--out", out], 2, "no model.diffusion_model"),
        (["--model", folder / "empty", "--out", out], 3, "model_index.json is missing"),
        (["--model", broken, "--out", out], 3, "broken/model_index.json"),
        (["--model", headless, "--out", out], 3, "text_encoder"),
        (["--model", thin, "--out", out], 3, "no PyTorch weights"),
        (["--model", cut, "--out", out], 3, "cut"),
        (["--model", other, "--out", out], 2, "FluxPipeline"),
        (["--model", sd15, "--out", out, "--taesd", sd15 / "vae"], 2, "not AutoencoderTiny"),
        (["--model", sd15, "--out", out, "--lora", "nowhere=0.5"], 2, "nowhere does not exist"),
    ]


def test_refusals_are_a_line_and_a_hint_and_leave_nothing(model, tmp_path, capsys):
    folder = tmp_path
    cases = refusals(model, folder)
    capsys.readouterr()
    before = sorted(folder.rglob("*"))
    for arguments, code, says in cases:
        assert cli.main([str(argument) for argument in arguments]) == code, arguments
        lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("reading ")]
        assert len(lines) == 2 and lines[0].startswith("error: ") and lines[1].startswith("hint: "), (arguments, lines)
        assert says in lines[0], (arguments, lines)
    assert sorted(folder.rglob("*")) == before


def test_a_folder_that_cannot_be_written_is_named(model, tmp_path, monkeypatch, capsys):
    def refuse(**_):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    assert export(model("sd15"), tmp_path / "pack") == 1
    assert f"error: {tmp_path}: Permission denied" in capsys.readouterr().err


def test_a_failure_half_way_leaves_the_old_pack(model, tmp_path, monkeypatch, capsys):
    out = tmp_path / "pack"
    assert export(model("sd15"), out) == 0
    (out / "mine").write_text("still here")
    files = sorted(tmp_path.rglob("*"))

    def full(*_):
        raise OSError(28, "No space left on device", "pack/unet/model.onnx")

    with monkeypatch.context() as patched:
        patched.setattr(graph, "save", full)
        assert export(model("sd15"), out, "--force") == 1
    assert "error: pack/unet/model.onnx: No space left on device" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == files
    assert export(model("sd15"), out, "--force") == 0
    assert not (out / "mine").exists() and [path.name for path in tmp_path.iterdir()] == ["pack"]


def test_a_graph_that_is_wrong_is_no_pack(model, tmp_path, monkeypatch, capsys):
    """One weight is changed between PyTorch and the file."""
    save = graph.save

    def spoilt(network, path):
        if path.parent.name == "unet":
            largest = max(network.graph.initializer, key=lambda weight: len(weight.raw_data))
            largest.raw_data = bytes(len(largest.raw_data))
        save(network, path)

    monkeypatch.setattr(graph, "save", spoilt)
    assert export(model("sd15"), tmp_path / "pack") == 1
    assert "error: unet: the graph differs from PyTorch by " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
