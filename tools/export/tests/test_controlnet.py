"""A ControlNet in the U-Net's graph does what diffusers does with the two."""

import json
import shutil
import tomllib

import loras
import onnx
import onnxruntime
import pytest
import tiny
import torch
from reference import (
    CALLS,
    assert_close,
    control_inputs,
    load,
    load_control,
    predicted,
    predicted_by,
    predicted_with,
    run,
    unet_inputs,
)

from pack_export import cli, graph

TOLERANCES = {"f32": 1e-4, "f16": 2e-2}
VARIANTS = [("f32",), ("f32", "--prompt-kv"), ("f32", "--attention", "fused"), ("f16",),
            ("f16", "--prompt-kv", "--attention", "fused")]
# Of as many rows as the calls of `reference` have.
SCALES = [(0.7,), (1.0, 0.4, 1.6)]
NAMES = ["sd15", "sd-turbo", "sdxl-turbo", "lcm"]


@pytest.fixture
def fused(pack, control):
    """From a tiny model's name, a type and further arguments to its pack with a ControlNet."""
    return lambda name, dtype="f32", *arguments: pack(name, "--dtype", dtype, "--controlnet", control(name), *arguments)


def difference(one, other):
    """The largest, for each row."""
    return (one - other).abs().amax(dim=(1, 2, 3))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variant", VARIANTS, ids=" ".join)
def test_every_row_has_its_own_time_picture_and_scale(model, control, fused, name, variant):
    dtype, *arguments = variant
    folder, unet, net = fused(name, dtype, *arguments), load(model(name)).unet, load_control(control(name))
    tolerance = TOLERANCES[dtype]
    for call, scales in zip(CALLS, SCALES):
        inputs, extra = unet_inputs(unet, *call)
        inputs = control_inputs(inputs, scales)
        want = predicted_with(net, unet, inputs, extra)
        assert_close(predicted_by(folder, inputs), want, tolerance)
        # A graph without the ControlNet, or one that took the first row's for all, would not have passed.
        assert (difference(predicted(unet, inputs, extra), want) > 10 * tolerance).all(), "the ControlNet does nothing"
        for part in ("timestep", "controlnet_cond", "conditioning_scale") if len(scales) > 1 else ():
            turned = predicted_with(net, unet, inputs | {part: inputs[part].flip(0)}, extra)
            assert difference(turned, want)[0] > 10 * tolerance, part


@pytest.mark.parametrize("name", NAMES)
def test_a_scale_of_nothing_is_the_unet_alone(model, fused, name):
    unet = load(model(name)).unet
    inputs, extra = unet_inputs(unet, *CALLS[1])
    inputs = control_inputs(inputs, (0.0, 1.0, 0.0))
    have, alone = predicted_by(fused(name), inputs), predicted(unet, inputs, extra)
    assert_close(have[[0, 2]], alone[[0, 2]], 1e-4)
    assert difference(have, alone)[1] > 1e-2


def test_the_picture_is_for_its_own_row(model, fused):
    inputs, _ = unet_inputs(load(model("sd15")).unet, *CALLS[1])
    inputs = control_inputs(inputs, (1.0, 1.0, 1.0))
    pictures = inputs["controlnet_cond"].clone()
    pictures[1] = 1 - pictures[1]
    changed = difference(predicted_by(fused("sd15"), inputs), predicted_by(fused("sd15"), inputs | {"controlnet_cond": pictures}))
    assert changed[1] > 1e-2 and changed[[0, 2]].max() < 1e-4


@pytest.mark.parametrize("name, dtype, arguments, own", [
    ("sd15", "f32", (), ["encoder_hidden_states"]), ("sd15", "f16", ("--prompt-kv",), ["prompt_kv"]),
    ("sdxl-turbo", "f16", (), ["encoder_hidden_states", "text_embeds", "time_ids"]),
    ("lcm", "f32", (), ["encoder_hidden_states", "timestep_cond"])])
def test_what_it_takes_comes_after_the_unets_own(fused, name, dtype, arguments, own):
    session = onnxruntime.InferenceSession(str(fused(name, dtype, *arguments) / "unet/model.onnx"))
    ports = session.get_inputs()
    assert [port.name for port in ports] == ["sample", "timestep", *own, "controlnet_cond", "conditioning_scale"]
    assert [port.shape for port in ports[-2:]] == [["batch_size", 3, "picture_height", "picture_width"], ["batch_size"]]
    assert {port.type for port in ports[-2:]} == {"tensor(float)" if dtype == "f32" else "tensor(float16)"}
    assert [port.name for port in session.get_outputs()] == ["out_sample"]


def test_its_keys_and_values_come_behind_the_unets(model, control, fused):
    folder = fused("sd15", "f32", "--prompt-kv")
    prompt = torch.randn(2, 77, 32)
    have = run(folder, "prompt_kv", encoder_hidden_states=prompt)["prompt_kv"]
    models = load(model("sd15")).unet, load_control(control("sd15"))
    layers = [layer for part in models for name, layer in part.named_modules() if name.endswith("attn2")]
    with torch.no_grad():
        want = torch.cat([project(prompt) for layer in layers for project in (layer.to_k, layer.to_v)], dim=-1)
    assert_close(have, want, 1e-4)


def test_its_attention_is_one_operator_too(fused):
    nodes = onnx.load(fused("sdxl-turbo", "f32", "--attention", "fused") / "unet/model.onnx").graph.node
    # The U-Net's as `test_graphs` counts them; the ControlNet has one block a level down, and the middle.
    layers = (1 + 2 + 2 * 1 + 2 * 2 + 2) + (1 + 2 + 2)
    assert sum(node.op_type == "MultiHeadAttention" for node in nodes) == 2 * layers
    assert not any(node.op_type == "Softmax" for node in nodes)


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_its_weights_in_8_bits(model, control, fused, dtype):
    folder, unet, net = fused("sd-turbo", dtype, "--int8"), load(model("sd-turbo")).unet, load_control(control("sd-turbo"))
    inputs, extra = unet_inputs(unet, *CALLS[1])
    inputs = control_inputs(inputs, SCALES[1])
    want = predicted_with(net, unet, inputs, extra)
    assert_close(predicted_by(folder, inputs, "model_int8.onnx"), want, 0.1)
    names = [weight.name for weight in onnx.load(folder / "unet/model_int8.onnx").graph.initializer]
    assert any(name.endswith(":int8") and name.startswith("controlnet.") for name in names)


def test_loras_change_the_unet_alone(model, control, tmp_path):
    pipe, net = load(model("sd15")), load_control(control("sd15"))
    style = loras.peft_style(pipe, tmp_path)
    out = tmp_path / "pack"
    arguments = ["--controlnet", control("sd15"), "--lora", style]
    assert cli.main(["--model", str(model("sd15")), "--out", str(out), *map(str, arguments)]) == 0
    pipe.load_lora_weights(tmp_path, weight_name=style.name)
    inputs, extra = unet_inputs(pipe.unet, *CALLS[1])
    inputs = control_inputs(inputs, SCALES[1])
    want = predicted_with(net, pipe.unet, inputs, extra)
    assert_close(predicted_by(out, inputs), want, 1e-4)
    assert difference(predicted_with(net, load(model("sd15")).unet, inputs, extra), want).min() > 0.1, "the LoRA does nothing"


@pytest.mark.parametrize("arguments", [(), ("--prompt-kv", "--attention", "fused")], ids=" ".join)
def test_one_without_attention(model, control, pack, arguments):
    """As the small ones for SDXL are."""
    small = control("sdxl-turbo", down_block_types=("DownBlock2D",) * 3, mid_block_type="UNetMidBlock2D")
    folder, unet, net = pack("sdxl-turbo", "--controlnet", small, *arguments), load(model("sdxl-turbo")).unet, load_control(small)
    assert not any(name.endswith("attn2") for name, _ in net.named_modules())
    inputs, extra = unet_inputs(unet, *CALLS[1])
    inputs = control_inputs(inputs, SCALES[1])
    assert_close(predicted_by(folder, inputs), predicted_with(net, unet, inputs, extra), 1e-4)


def test_one_with_weights_in_f16_alone(model, tmp_path):
    """As many repositories have them."""
    net = tiny.controlnet(load(model("sd15")).unet).half()
    net.save_pretrained(tmp_path / "half", variant="fp16")
    arguments = ["--model", model("sd15"), "--out", tmp_path / "pack", "--controlnet", tmp_path / "half"]
    assert cli.main([str(argument) for argument in arguments]) == 0
    unet = load(model("sd15")).unet
    inputs, extra = unet_inputs(unet, *CALLS[1])
    inputs = control_inputs(inputs, SCALES[1])
    assert_close(predicted_by(tmp_path / "pack", inputs), predicted_with(net.float(), unet, inputs, extra), 1e-4)


def test_pack_toml_names_it(control, pack, fused):
    written = tomllib.loads((fused("sd15") / "pack.toml").read_text())
    assert written["controlnet"] == control("sd15").name and written["defaults"]["preprocessor"] == "canny"
    tile = pack("sd15", "--controlnet", control("sd15"), "--preprocessor", "passthrough", "--no-check")
    assert tomllib.loads((tile / "pack.toml").read_text())["defaults"]["preprocessor"] == "passthrough"
    without = tomllib.loads((pack("sd15", "--dtype", "f32") / "pack.toml").read_text())
    assert "controlnet" not in without and "preprocessor" not in without["defaults"]


def test_a_wrong_one_in_the_graph_is_no_pack(model, control, tmp_path, monkeypatch, capsys):
    """A ControlNet whose last weights are nothing, as those of a new one are, between PyTorch and the file."""
    save = graph.save

    def spoilt(network, path):
        for weight in network.graph.initializer:
            if weight.name.startswith(("controlnet.controlnet_down_blocks", "controlnet.controlnet_mid_block")):
                weight.raw_data = bytes(len(weight.raw_data))
        save(network, path)

    monkeypatch.setattr(graph, "save", spoilt)
    arguments = ["--model", model("sd15"), "--out", tmp_path / "pack", "--controlnet", control("sd15")]
    assert cli.main([str(argument) for argument in arguments]) == 1
    assert "error: unet: the graph differs from PyTorch by " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def refusals(model, control, folder):
    """Arguments beside model and pack, the exit code and what the error says."""
    sd15 = control("sd15")
    empty = folder / "empty"
    empty.mkdir()
    thin, broken, cut, union = (shutil.copytree(sd15, folder / name) for name in ("thin", "broken", "cut", "union"))
    (thin / "diffusion_pytorch_model.safetensors").unlink()
    (broken / "config.json").write_text("{")
    weights = cut / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    config = json.loads((sd15 / "config.json").read_text())
    (union / "config.json").write_text(json.dumps(config | {"_class_name": "ControlNetUnionModel"}))

    def other(**extra):
        return ["--controlnet", control("sd15", **extra)]

    return [
        (["--controlnet", folder / "nowhere"], 2, "--controlnet: ", "nowhere does not exist"),
        (["--controlnet", sd15 / "config.json"], 2, "config.json is a file"),
        (["--controlnet", empty], 3, "empty/config.json is missing"),
        (["--controlnet", broken], 3, "broken/config.json"),
        (["--controlnet", thin], 3, "no PyTorch weights"),
        (["--controlnet", cut], 3, "--controlnet: ", "cut: "),
        (["--controlnet", model("sd15") / "unet"], 2, "holds UNet2DConditionModel, not ControlNetModel"),
        (["--controlnet", union], 2, "holds ControlNetUnionModel, not ControlNetModel"),
        (other(conditioning_channels=1), 2, "its conditioning_channels is 1, not 3"),
        (other(controlnet_conditioning_channel_order="bgr"), 2, "its controlnet_conditioning_channel_order is bgr, not rgb"),
        (other(global_pool_conditions=True), 2, "its global_pool_conditions is True, not False"),
        (other(class_embed_type="timestep"), 2, "its class_embed_type is timestep, not None"),
        (other(conditioning_embedding_out_channels=(4, 8, 8)), 2, "takes pictures of 4 times the latent's sides, not 8"),
        (other(in_channels=8), 2, "its in_channels is 8, the U-Net's 4"),
        (other(layers_per_block=2), 2, "its layers_per_block is 2, the U-Net's 1"),
        (other(block_out_channels=(16, 24, 40)), 2, "its block_out_channels is [16, 24, 40], the U-Net's [16, 24, 32]"),
        (["--controlnet", control("sd-turbo")], 2, "its cross_attention_dim is 48, the U-Net's 32"),
        (other(addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=88), 2,
         "its addition_embed_type is text_time, the U-Net's None"),
        (["--controlnet", sd15, "--preprocessor", "depth"], 2, "--preprocessor", "depth"),
        (["--preprocessor", "gray"], 2, "--preprocessor is for a ControlNet"),
        (["--controlnet", sd15, "--out", sd15, "--force"], 2, "holds the ControlNet itself"),
    ]


def test_refusals_are_a_line_and_a_hint_and_leave_nothing(model, control, tmp_path, capsys):
    cases = refusals(model, control, tmp_path)
    capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    for arguments, code, *says in cases:
        whole = ["--model", model("sd15"), "--out", tmp_path / "pack", *arguments]
        assert cli.main([str(argument) for argument in whole]) == code, arguments
        lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("reading ")]
        assert len(lines) == 2 and lines[0].startswith("error: ") and lines[1].startswith("hint: "), (arguments, lines)
        assert all(part in lines[0] for part in says), (arguments, lines)
    assert sorted(tmp_path.rglob("*")) == before
