"""A Stable Diffusion 1.x model as one file in the layout of the original code (CompVis, "ldm")."""

import re

import torch
from safetensors.torch import save_file


def save(pipe, path):
    """Writes the weights under their old names."""
    weights = {f"model.diffusion_model.{old_unet(name, pipe.unet)}": values for name, values in pipe.unet.state_dict().items()}
    weights |= {f"first_stage_model.{name}": values for name, values in old_vae(pipe.vae).items()}
    for name, values in pipe.text_encoder.state_dict().items():
        inside = name if name.startswith("text_model") else f"text_model.{name}"
        weights[f"cond_stage_model.transformer.{inside}"] = values
    save_file({name: values.contiguous() for name, values in weights.items()}, path)
    return path


def old_unet(name, unet):
    """diffusers counts blocks by level, the original all of them in one row."""
    per_level = unet.config.layers_per_block + 1
    whole = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
             "conv_norm_out": "out.0", "conv_out": "out.2"}
    for new, old in whole.items():
        if name.startswith(f"{new}."):
            return name.replace(new, old, 1)
    if found := re.match(r"down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
        level, kind, number, rest = int(found[1]), found[2], int(found[3]), found[4]
        return f"input_blocks.{1 + level * per_level + number}.{int(kind == 'attentions')}.{resnet(rest)}"
    if found := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", name):
        return f"input_blocks.{(int(found[1]) + 1) * per_level}.0.op.{found[2]}"
    if found := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name):
        return f"middle_block.{1 if found[1] == 'attentions' else 2 * int(found[2])}.{resnet(found[3])}"
    if found := re.match(r"up_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
        level, kind, number, rest = int(found[1]), found[2], int(found[3]), found[4]
        return f"output_blocks.{level * per_level + number}.{int(kind == 'attentions')}.{resnet(rest)}"
    if found := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.*)", name):
        level = int(found[1])
        has_attention = "CrossAttn" in unet.config.up_block_types[level]
        return f"output_blocks.{level * per_level + per_level - 1}.{1 + has_attention}.conv.{found[2]}"
    raise AssertionError(name)


def resnet(name):
    for new, old in {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
                     "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}.items():
        if name.startswith(f"{new}.") and "transformer_blocks" not in name:
            return name.replace(new, old, 1)
    return name


def old_vae(vae):
    levels = len(vae.config.block_out_channels)
    weights = {}
    for name, values in vae.state_dict().items():
        name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", name)
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = name.replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm").replace("mid_block.attentions.0", "mid.attn_1")
        for new, old in {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}.items():
            name = name.replace(f"attn_1.{new}.", f"attn_1.{old}.")
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        # There attention is a convolution of one pixel.
        is_attention = "attn_1" in name and name.endswith("weight") and values.ndim == 2
        weights[name] = torch.reshape(values, (*values.shape, 1, 1)) if is_attention else values
    return weights
