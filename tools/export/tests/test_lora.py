"""LoRAs fused into a pack do what PEFT does with them beside the weights."""

import json

import loras
import pytest
import torch
from reference import CALLS, assert_close, load, predicted, predicted_by, run, unet_inputs

from pack_export import cli


@pytest.fixture(scope="module")
def two(model, tmp_path_factory):
    """A style's LoRA as PEFT writes it and an LCM's as kohya's trainer does."""
    folder, pipe = tmp_path_factory.mktemp("loras"), load(model("sd15"))
    return loras.peft_style(pipe, folder), *loras.kohya_style(pipe, folder / "lcm.safetensors")


def with_peft(folder, *weighted):
    """The model with adapters beside its weights."""
    pipe = load(folder)
    names = [f"adapter_{number}" for number in range(len(weighted))]
    for name, (path, _) in zip(names, weighted):
        pipe.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)
    pipe.set_adapters(names, [scale for _, scale in weighted])
    return pipe


@pytest.mark.parametrize("arguments", [(), ("--prompt-kv",)], ids=" ".join)
def test_two_at_once_are_those_of_peft(model, two, tmp_path, arguments):
    style, lcm, _ = two
    out = tmp_path / "pack"
    lora = ["--lora", f"{style}=0.6", "--lcm-lora", str(lcm)]
    assert cli.main(["--model", str(model("sd15")), "--out", str(out), *lora, *arguments]) == 0
    pipe, plain = with_peft(model("sd15"), (style, 0.6), (lcm, 1.0)), load(model("sd15"))
    for call in CALLS:
        inputs, extra = unet_inputs(pipe.unet, *call)
        want = predicted(pipe.unet, inputs, extra)
        assert_close(predicted_by(out, inputs), want, 1e-4)
        assert (predicted(plain.unet, inputs, extra) - want).abs().max() > 0.1, "the LoRAs do nothing"
    ids = pipe.tokenizer("a fox", padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        want, without = (p.text_encoder(ids).last_hidden_state for p in (pipe, plain))
    assert_close(run(out, "text_encoder", input_ids=ids)["last_hidden_state"], want, 1e-4)
    assert (want - without).abs().max() > 0.1, "the LoRA of the text encoder does nothing"
    # An LCM-LoRA makes an LCM of it.
    assert json.loads((out / "scheduler/scheduler_config.json").read_text())["_class_name"] == "LCMScheduler"
    assert 'scheduler = "lcm"' in (out / "pack.toml").read_text()


def test_one_is_the_sum_of_the_formula(model, two, tmp_path):
    """W + scale·(alpha/rank)·B·A, added by hand."""
    _, lcm, added = two
    out = tmp_path / "pack"
    assert cli.main(["--model", str(model("sd15")), "--out", str(out), "--lora", f"{lcm}=0.7"]) == 0
    pipe = load(model("sd15"))
    modules = dict(pipe.unet.named_modules())
    with torch.no_grad():
        for (prefix, name), values in added.items():
            if prefix == "lora_unet":
                modules[name].weight += 0.7 * values
    inputs, extra = unet_inputs(pipe.unet, *CALLS[1])
    assert_close(predicted_by(out, inputs), predicted(pipe.unet, inputs, extra), 1e-4)


def test_one_of_another_family_is_refused(model, tmp_path, capsys):
    lora = loras.kohya_style(load(model("sd-turbo")), tmp_path / "other.safetensors")[0]
    before = set(tmp_path.iterdir())
    assert cli.main(["--model", str(model("sd15")), "--out", str(tmp_path / "pack"), "--lora", str(lora)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2].startswith(f"error: --lora: {lora}: ") and lines[-1].startswith("hint: ")
    assert set(tmp_path.iterdir()) == before


def test_a_whole_model_is_no_lora(model, tmp_path, capsys):
    weights = model("sd15") / "unet/diffusion_pytorch_model.safetensors"
    assert cli.main(["--model", str(model("sd15")), "--out", str(tmp_path / "pack"), "--lora", str(weights)]) == 2
    assert f"error: --lora: {weights}: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
