"""Random-weight models of the true architectures, made of their config classes, small and large."""

import math
import pathlib

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

# CLIP's first 1000 merges, as the engine's own tests have them.
TOKENIZERS = pathlib.Path(__file__).parents[3] / "assets/goldens/models"

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


# Layers whose weights are wider than those of others.
WIDE = ("to_q", "to_k", "q_proj", "k_proj", "time_emb_proj", "controlnet_cond_embedding")


def spread(module, seed):
    """New weights from a seed, wide enough that time, prompt and a ControlNet's picture matter, as they do in a trained network."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, values in sorted(module.named_parameters()):
            noise = torch.randn(values.shape, generator=generator)
            if values.ndim >= 2:
                wide = 1.6 if any(part in name for part in WIDE) else 1.0
                values.copy_(noise * wide / math.sqrt(values[0].numel()))
            else:
                values.copy_(0.05 * noise + (0 if name.endswith("bias") else 1))
    return module.eval()


def tokenizer(model, part="tokenizer"):
    return CLIPTokenizer.from_pretrained(TOKENIZERS / model / part)


def text_config(tokens, width, layers, act, projection=None):
    return CLIPTextConfig(vocab_size=len(tokens), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
                          num_attention_heads=4, hidden_act=act, max_position_embeddings=77, projection_dim=projection or width,
                          bos_token_id=tokens.bos_token_id, eos_token_id=tokens.eos_token_id, pad_token_id=1)


def unet(seed, prompt_width, *, levels=(16, 24, 32), plain_first=False, **extra):
    """A U-Net of Stable Diffusion's blocks; SDXL has its plain level first."""
    down = ["CrossAttnDownBlock2D"] * (len(levels) - 1)
    down = ["DownBlock2D", *down] if plain_first else [*down, "DownBlock2D"]
    up = [name.replace("Down", "Up") for name in reversed(down)]
    config = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1, "norm_num_groups": 8}
    made = UNet2DConditionModel(**config | {"block_out_channels": levels, "down_block_types": down, "up_block_types": up,
                                            "cross_attention_dim": prompt_width} | extra)
    return spread(made, seed)


def controlnet(unet, seed=11, **extra):
    """A ControlNet beside a U-Net. All its weights are random: those of a new one end in convolutions of zeros."""
    made = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 8, 16), load_weights_from_unet=False)
    config = {key: value for key, value in made.config.items() if not key.startswith("_")}
    return spread(ControlNetModel(**config | extra), seed)


def taesd(seed=3, channels=16):
    return spread(AutoencoderTiny(encoder_block_out_channels=(channels,) * 4, decoder_block_out_channels=(channels,) * 4, latent_channels=4), seed)


def kl(seed=4, levels=(8, 16, 16, 16), **extra):
    config = {"in_channels": 3, "out_channels": 3, "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 64}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return spread(AutoencoderKL(**config | blocks | {"block_out_channels": levels} | extra), seed)


def sd15(levels=(16, 24, 32), scheduler=None, **extra):
    tokens = tokenizer("tiny-sd15")
    return StableDiffusionPipeline(
        unet=unet(1, 32, levels=levels, attention_head_dim=4, **extra), vae=kl(), tokenizer=tokens,
        text_encoder=spread(CLIPTextModel(text_config(tokens, 32, 2, "quick_gelu")), 2),
        scheduler=scheduler or PNDMScheduler(**BETAS, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def lcm():
    """A whole LCM, which takes the guidance scale as an input."""
    return sd15(scheduler=LCMScheduler(**BETAS, steps_offset=1), time_cond_proj_dim=16)


def sd_turbo():
    tokens = tokenizer("tiny-sdturbo")
    return StableDiffusionPipeline(
        unet=unet(5, 48, attention_head_dim=[2, 3, 4], use_linear_projection=True), vae=kl(), tokenizer=tokens,
        text_encoder=spread(CLIPTextModel(text_config(tokens, 48, 3, "gelu", 64)), 6),
        scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing", prediction_type="epsilon", steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def sdxl_turbo():
    first, second = tokenizer("tiny-sdxlturbo"), tokenizer("tiny-sdxlturbo", "tokenizer_2")
    pooled, sizes = 40, 8
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": sizes,
             "projection_class_embeddings_input_dim": pooled + 6 * sizes}
    return StableDiffusionXLPipeline(
        unet=unet(7, 32 + 40, plain_first=True, attention_head_dim=[2, 3, 4], use_linear_projection=True,
                  transformer_layers_per_block=[1, 1, 2], **added),
        vae=kl(force_upcast=True), tokenizer=first, tokenizer_2=second,
        text_encoder=spread(CLIPTextModel(text_config(first, 32, 2, "quick_gelu")), 8),
        text_encoder_2=spread(CLIPTextModelWithProjection(text_config(second, 40, 3, "gelu", pooled)), 9),
        scheduler=EulerAncestralDiscreteScheduler(**BETAS, timestep_spacing="trailing", prediction_type="epsilon", steps_offset=1),
        force_zeros_for_empty_prompt=True, add_watermarker=False)


MODELS = {"sd15": sd15, "sd-turbo": sd_turbo, "sdxl-turbo": sdxl_turbo, "lcm": lcm}


def full_sd_turbo():
    """SD-Turbo at its full size: 866 M, 84 M and 340 M weights, 5.2 GB. Its tokenizer knows the first words alone."""
    tokens = tokenizer("tiny-sdturbo")
    text = text_config(tokens, 1024, 23, "gelu", 512)
    text.vocab_size, text.num_attention_heads = 49408, 16
    return StableDiffusionPipeline(
        unet=unet(5, 1024, levels=(320, 640, 1280, 1280), sample_size=64, layers_per_block=2, norm_num_groups=32,
                  attention_head_dim=[5, 10, 20, 20], use_linear_projection=True),
        vae=kl(levels=(128, 256, 512, 512), layers_per_block=2, norm_num_groups=32, sample_size=512), tokenizer=tokens,
        text_encoder=spread(CLIPTextModel(text), 6),
        scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing", prediction_type="epsilon", steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False)


# `python tiny.py NAME FOLDER` writes a model, for trying things by hand.
if __name__ == "__main__":
    import sys

    (MODELS | {"taesd": lambda: taesd(channels=64), "full-sd-turbo": full_sd_turbo})[sys.argv[1]]().save_pretrained(sys.argv[2])
