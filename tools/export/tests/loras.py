"""Random LoRAs in the two formats in use, as files."""

import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

RANK = 4


def peft_style(pipe, folder, seed=21):
    """As PEFT and diffusers write them: attention, transitions and convolutions of the U-Net."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers

    targets = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "conv1"]
    pipe.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets, init_lora_weights=False), "new")
    generator = torch.Generator().manual_seed(seed)
    layers = get_peft_model_state_dict(pipe.unet, adapter_name="new")
    layers = {name: 0.15 * torch.randn(values.shape, generator=generator) for name, values in layers.items()}
    pipe.unet.delete_adapters("new")
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=convert_state_dict_to_diffusers(layers))
    return folder / "pytorch_lora_weights.safetensors"


def kohya_style(pipe, path, seed=22, alpha=2.0):
    """As kohya's trainer and the LCM-LoRA have them: the U-Net's attention and the text encoder's, with an alpha. Gives what is to
    be added to each weight at scale 1, too."""
    generator = torch.Generator().manual_seed(seed)
    weights, added = {}, {}
    parts = [("lora_unet", pipe.unet, ("attn1.to_q", "attn2.to_k", "attn2.to_v", "to_out.0")), ("lora_te", pipe.text_encoder, ("q_proj", "out_proj"))]
    for prefix, module, endings in parts:
        for name, layer in module.named_modules():
            if not name.endswith(endings):
                continue
            # Old transformers, whose names the format has, kept the encoder in `text_model`.
            inside = name if prefix == "lora_unet" or name.startswith("text_model") else f"text_model.{name}"
            key = f"{prefix}_{inside.replace('.', '_')}"
            down = 0.2 * torch.randn(RANK, layer.in_features, generator=generator)
            up = 0.2 * torch.randn(layer.out_features, RANK, generator=generator)
            weights |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(alpha)}
            added[(prefix, name)] = alpha / RANK * up @ down
    save_file(weights, path)
    return path, added
