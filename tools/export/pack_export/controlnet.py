"""A ControlNet, fused into the U-Net's graph: what one call takes beside the U-Net's own inputs, and which ControlNets fit."""

import diffusers
import torch
from diffusers import ControlNetModel

from .failure import MISSING, Failure, one_line
from .load import has_torch_weights, is_half_alone, read_json

# A picture's sides over the latent's: those of Stable Diffusion's VAE.
FACTOR = 8

# What the engine has to know beforehand, as it gives one picture in RGB for each row and adds what comes back as it is.
NEEDED = {"conditioning_channels": 3, "controlnet_conditioning_channel_order": "rgb", "global_pool_conditions": False,
          "class_embed_type": None, "num_class_embeds": None}

# Where these differ, the two cannot share their inputs, or what one gives is not added to what the other has at that place.
SHARED = ("in_channels", "cross_attention_dim", "block_out_channels", "layers_per_block", "addition_embed_type",
          "addition_time_embed_dim", "projection_class_embeddings_input_dim")

AXES = {"controlnet_cond": {0: "batch_size", 2: "picture_height", 3: "picture_width"}, "conditioning_scale": {0: "batch_size"}}


def load(folder):
    """The ControlNet in f32, of a kind that can be fused."""
    if not folder.is_dir():
        raise Failure(f"--controlnet: {folder} is a file", "give a folder in the diffusers layout: config.json and the weights")
    kind = read_json(folder / "config.json").get("_class_name")
    if kind != "ControlNetModel":
        raise Failure(f"--controlnet: {folder} holds {kind}, not ControlNetModel", "give one ControlNet in the diffusers layout")
    if not has_torch_weights(folder):
        raise Failure(f"--controlnet: {folder} has no PyTorch weights", "download it anew, with its weights", MISSING)
    diffusers.utils.logging.disable_progress_bar()
    try:
        found = ControlNetModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True,
                                                variant="fp16" if is_half_alone(folder) else None).eval()
    except Exception as error:
        raise Failure(f"--controlnet: {folder}: {one_line(error)}", "copy or download it anew", MISSING) from error
    for key, needed in NEEDED.items():
        if found.config[key] != needed:
            raise Failure(f"--controlnet: {folder}: its {key} is {found.config[key]}, not {needed}",
                          "take a ControlNet that is given one picture in RGB, as those for edges, depth or tiles are")
    halvings = len(found.config.conditioning_embedding_out_channels) - 1
    if 2**halvings != FACTOR:
        raise Failure(f"--controlnet: {folder} takes pictures of {2**halvings} times the latent's sides, not {FACTOR}",
                      "take a ControlNet of Stable Diffusion's")
    return found


def check_fits(controlnet, unet, folder):
    """Refuses a ControlNet of another architecture than the U-Net's."""
    for key in SHARED:
        have, want = (as_list(model.config[key]) for model in (controlnet, unet))
        if have != want:
            raise Failure(f"--controlnet: {folder}: its {key} is {have}, the U-Net's {want}",
                          "take a ControlNet of the model's own family (SD 1.x, SD 2.x or SDXL)")


def as_list(value):
    """A config in memory has tuples where one from a file has lists."""
    return list(value) if isinstance(value, tuple) else value


def example(rows, height, width):
    """Inputs for a latent of these sides."""
    # Another scale in every row, 0 among them where there are several.
    pictures = torch.rand(rows, 3, FACTOR * height, FACTOR * width)
    return {"controlnet_cond": pictures, "conditioning_scale": torch.linspace(1.5, 0, rows)}


def residuals(controlnet, sample, timestep, prompt, picture, scale, added):
    """What the U-Net adds to its own, as its arguments: diffusers' way outside of guess mode, with a scale for every row."""
    down, middle = controlnet(sample, timestep, encoder_hidden_states=prompt, controlnet_cond=picture,
                              conditioning_scale=scale[:, None, None, None], added_cond_kwargs=added, return_dict=False)
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
