"""A pack's graphs on ONNX Runtime beside the model in diffusers, called as its own pipelines call it."""

import json

import numpy
import onnxruntime
import torch
from diffusers import ControlNetModel, StableDiffusionPipeline, StableDiffusionXLPipeline

# One row, and several at times of their own at another size; neither is what the graphs were traced with (2 rows, 16x16).
CALLS = [((999.0,), 8, 8), ((999.0, 499.0, 19.0), 16, 24)]


def load(folder):
    """A model in f32, as diffusers loads it."""
    is_sdxl = "text_encoder_2" in json.loads((folder / "model_index.json").read_text())
    kind = StableDiffusionXLPipeline if is_sdxl else StableDiffusionPipeline
    extra = {} if is_sdxl else {"safety_checker": None, "requires_safety_checker": False}
    return kind.from_pretrained(folder, local_files_only=True, dtype=torch.float32, **extra)


def run(pack, part, file="model.onnx", **inputs):
    """The outputs of a graph by name. Floats become what the graph takes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(pack / part / file), options, providers=["CPUExecutionProvider"])
    types = {"tensor(float16)": numpy.float16, "tensor(float)": numpy.float32, "tensor(int64)": numpy.int64}
    feeds = {port.name: inputs[port.name].numpy().astype(types[port.type]) for port in session.get_inputs()}
    names = [port.name for port in session.get_outputs()]
    return {name: torch.from_numpy(value.astype(numpy.float32)) for name, value in zip(names, session.run(names, feeds))}


def unet_inputs(unet, times, height, width, seed=5):
    """Random inputs of a U-Net, and the call of diffusers that belongs to them."""
    generator = torch.Generator().manual_seed(seed)
    rows, config = len(times), unet.config

    def random(*sides):
        return torch.randn(*sides, generator=generator)

    inputs = {"sample": random(rows, config.in_channels, height, width), "timestep": torch.tensor(times),
              "encoder_hidden_states": random(rows, 77, config.cross_attention_dim)}
    extra = {}
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {"text_embeds": random(rows, pooled), "time_ids": torch.tensor([[512.0, 384, 0, 16, 512, 384]] * rows)}
        inputs |= added
        extra["added_cond_kwargs"] = added
    if config.time_cond_proj_dim:
        inputs["timestep_cond"] = extra["timestep_cond"] = random(rows, config.time_cond_proj_dim)
    return inputs, extra


def predicted(unet, inputs, extra):
    """What diffusers gives."""
    with torch.no_grad():
        return unet(inputs["sample"], inputs["timestep"], encoder_hidden_states=inputs["encoder_hidden_states"], return_dict=False, **extra)[0]


def load_control(folder):
    """A ControlNet in f32, as diffusers loads it."""
    return ControlNetModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()


def control_inputs(inputs, scales, seed=6):
    """The inputs of a U-Net with a picture and a scale for every row."""
    rows, _, height, width = inputs["sample"].shape
    pictures = torch.rand(rows, 3, 8 * height, 8 * width, generator=torch.Generator().manual_seed(seed))
    return inputs | {"controlnet_cond": pictures, "conditioning_scale": torch.tensor(scales)}


def predicted_with(control, unet, inputs, extra):
    """What diffusers gives with a ControlNet: each row by itself, both called as StableDiffusionControlNetPipeline calls them."""
    rows = []
    for row in range(len(inputs["sample"])):
        sample, timestep, prompt, picture = (inputs[name][row : row + 1] for name in (
            "sample", "timestep", "encoder_hidden_states", "controlnet_cond"))
        added = {name: value[row : row + 1] for name, value in extra.get("added_cond_kwargs", {}).items()} or None
        guidance = extra["timestep_cond"][row : row + 1] if "timestep_cond" in extra else None
        scale = inputs["conditioning_scale"][row].item()
        with torch.no_grad():
            down, middle = control(sample, timestep[0], encoder_hidden_states=prompt, controlnet_cond=picture,
                                   conditioning_scale=scale, added_cond_kwargs=added, guess_mode=False, return_dict=False)
            rows.append(unet(sample, timestep[0], encoder_hidden_states=prompt, timestep_cond=guidance, added_cond_kwargs=added,
                             down_block_additional_residuals=down, mid_block_additional_residual=middle, return_dict=False)[0])
    return torch.cat(rows)


def predicted_by(pack, inputs, file="model.onnx"):
    """What the pack gives, through its `prompt_kv` where it has one."""
    if (pack / "prompt_kv").is_dir():
        inputs = inputs | run(pack, "prompt_kv", encoder_hidden_states=inputs["encoder_hidden_states"])
    return run(pack, "unet", file, **inputs)["out_sample"]


def assert_close(have, want, tolerance):
    """No value is off by more than `tolerance`, or by that part of the largest value where that is over 1."""
    assert have.shape == want.shape
    worst = (have - want).abs().max() / max(1.0, want.abs().max())
    assert worst <= tolerance, f"off by {worst:.1e}"
