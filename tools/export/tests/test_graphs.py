"""The graphs give what PyTorch gives."""

import pytest
import torch
from reference import CALLS, assert_close, load, predicted, predicted_by, run, unet_inputs

TOLERANCES = {"f32": 1e-4, "f16": 2e-2}
VARIANTS = [("f32",), ("f32", "--prompt-kv"), ("f32", "--attention", "fused"), ("f16",),
            ("f16", "--prompt-kv", "--attention", "fused"), ("f16", "--taesd")]


def made(pack, model, name, dtype, arguments):
    taesd = [model("taesd")] if "--taesd" in arguments else []
    return pack(name, "--dtype", dtype, *arguments, *taesd)


@pytest.mark.parametrize("name", ["sd15", "sd-turbo", "sdxl-turbo", "lcm"])
@pytest.mark.parametrize("variant", VARIANTS, ids=" ".join)
def test_the_unet_with_a_time_for_every_row(model, pack, name, variant):
    dtype, *arguments = variant
    folder, unet = made(pack, model, name, dtype, arguments), load(model(name)).unet
    for times, height, width in CALLS:
        inputs, extra = unet_inputs(unet, times, height, width)
        want = predicted(unet, inputs, extra)
        assert_close(predicted_by(folder, inputs), want, TOLERANCES[dtype])
        # The time of each row matters, so that a graph that took the first row's for all would not have passed.
        if len(times) > 1:
            turned = inputs | {"timestep": inputs["timestep"].flip(0)}
            assert (predicted(unet, turned, extra) - want)[0].abs().max() > 10 * TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize("name", ["sd15", "sd-turbo", "sdxl-turbo"])
def test_text_encoders(model, pack, name, dtype):
    folder, pipe = pack(name, "--dtype", dtype), load(model(name))
    for part in ("text_encoder", "text_encoder_2"):
        encoder = getattr(pipe, part, None)
        if encoder is None:
            assert not (folder / part).exists()
            continue
        tokens = getattr(pipe, part.replace("text_encoder", "tokenizer"))
        prompts = ["", "an oil painting of a fox", "many words " * 60]
        ids = tokens(prompts, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
        with torch.no_grad():
            want = encoder(ids, output_hidden_states=True)
        have = run(folder, part, input_ids=ids)
        assert_close(have["last_hidden_state"], want.last_hidden_state, TOLERANCES[dtype])
        if name == "sdxl-turbo":
            # What diffusers takes of both encoders: the layer before the last.
            (layer,) = (value for key, value in have.items() if key.startswith("hidden_states."))
            assert_close(layer, want.hidden_states[-2], TOLERANCES[dtype])
        if part == "text_encoder_2":
            assert_close(have["text_embeds"], want.text_embeds, TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize("rows, height, width", [(1, 32, 32), (3, 64, 96)])
def test_the_kl_vae_gives_mean_and_variance(model, pack, dtype, rows, height, width):
    folder, vae = pack("sd15", "--dtype", dtype), load(model("sd15")).vae
    check_vae(folder, vae, lambda pictures: vae.encode(pictures).latent_dist.parameters, "latent_parameters", dtype, (rows, height, width))


@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize("rows, height, width", [(1, 32, 32), (3, 64, 96)])
def test_taesd_in_place_of_the_kl_vae(model, pack, dtype, rows, height, width):
    from diffusers import AutoencoderTiny

    folder = pack("sd15", "--dtype", dtype, "--taesd", model("taesd"))
    vae = AutoencoderTiny.from_pretrained(model("taesd"))
    check_vae(folder, vae, lambda pictures: vae.encode(pictures).latents, "latent_sample", dtype, (rows, height, width))


def check_vae(folder, vae, encode, latent, dtype, sides):
    rows, height, width = sides
    pictures = torch.rand(rows, 3, height, width) * 2 - 1
    latents = torch.randn(rows, 4, height // 8, width // 8)
    with torch.no_grad():
        encoded, decoded = encode(pictures), vae.decode(latents, return_dict=False)[0]
    assert_close(run(folder, "vae_encoder", sample=pictures)[latent], encoded, TOLERANCES[dtype])
    assert_close(run(folder, "vae_decoder", latent_sample=latents)["sample"], decoded, TOLERANCES[dtype])


def test_a_vae_that_overflows_stays_in_f32(pack):
    assert types(pack("sdxl-turbo", "--dtype", "f16"), "vae_decoder") == {"tensor(float)"}
    assert types(pack("sd15", "--dtype", "f16"), "vae_decoder") == {"tensor(float16)"}


def types(folder, part):
    import onnxruntime

    return {port.type for port in onnxruntime.InferenceSession(str(folder / part / "model.onnx")).get_inputs()}


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_weights_in_8_bits(model, pack, dtype):
    folder, unet = pack("sd-turbo", "--dtype", dtype, "--int8"), load(model("sd-turbo")).unet
    inputs, extra = unet_inputs(unet, *CALLS[1])
    assert_close(predicted_by(folder, inputs, "model_int8.onnx"), predicted(unet, inputs, extra), 0.1)
    sizes = [(folder / "unet" / name).stat().st_size for name in ("model_int8.onnx", "model.onnx")]
    assert sizes[0] < 0.9 * sizes[1]


def test_fused_attention_is_one_operator_for_each_layer(pack):
    import onnx

    graph = onnx.load(pack("sdxl-turbo", "--dtype", "f32", "--attention", "fused") / "unet/model.onnx").graph
    # Transformers of 1, 1 and 2 layers of each level with one block down and two up, the middle of 2; two attentions in each.
    assert sum(node.op_type == "MultiHeadAttention" for node in graph.node) == 2 * (1 + 2 + 2 * 1 + 2 * 2 + 2)
    assert not any(node.op_type == "Softmax" for node in graph.node)
