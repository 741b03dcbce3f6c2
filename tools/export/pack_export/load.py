"""From a diffusers folder or a checkpoint in one file to a pipeline in memory, in f32."""

import json
import pathlib

import diffusers
import torch
import transformers
from diffusers import AutoencoderTiny, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors import safe_open

from .failure import MISSING, Failure, one_line

# What a pack has no use for: it is not even read.
UNUSED = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")

FAMILIES = "Stable Diffusion 1.x, 2.x, SD-Turbo, SDXL, SDXL-Turbo and LCM models can be exported"


def read_json(path):
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise Failure(f"{path} is missing", "the folder is no whole diffusers model: copy or download it anew", MISSING) from None
    except ValueError as error:
        raise Failure(f"{path}: {error}", "the file is damaged: copy or download it anew", MISSING) from None


def pipeline(options):
    """The model with its own VAE, or with TAESD where the options name one."""
    load = of_folder if options.model.is_dir() else of_file
    # Errors stand alone on the standard error, without bars before them.
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    taesd = load_taesd(options.taesd) if options.taesd else None
    pipe = load(options)
    channels = pipe.unet.config.in_channels
    if pipe.unet.config.out_channels != channels:
        raise Failure(f"{options.model}: the U-Net takes {channels} channels and gives {pipe.unet.config.out_channels}",
                      "inpainting and learned-variance models are not supported")
    if taesd is not None:
        if taesd.config.latent_channels != channels:
            raise Failure(f"--taesd: {options.taesd} has latents of {taesd.config.latent_channels} channels, the U-Net {channels}",
                          "take the TAESD of the same family (taesd for SD, taesdxl for SDXL)")
        pipe.vae = taesd
    return pipe


def of_folder(options):
    folder = options.model
    if (folder / "unet").is_dir() and not has_torch_weights(folder / "unet"):
        onnx = any((folder / "unet").glob("*.onnx"))
        raise Failure(f"{folder}/unet has no PyTorch weights",
                      "it is a pack already" if onnx else "download it anew, with its weights", MISSING)
    index = read_json(folder / "model_index.json")
    kind = index.get("_class_name", "")
    pipeline_class = StableDiffusionXLPipeline if "text_encoder_2" in index else StableDiffusionPipeline
    if not any(name in kind for name in ("StableDiffusion", "LatentConsistency")) or "unet" not in index:
        raise Failure(f"{folder}: {kind or 'its model_index.json'} is not a pipeline known here", FAMILIES)
    for part in PARTS:
        if part in index and not (folder / part).is_dir():
            raise Failure(f"{folder}/{part} is missing", "the folder is no whole diffusers model: copy or download it anew", MISSING)
    half = is_half_alone(folder / "unet")
    return loaded(folder, lambda: pipeline_class.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, variant="fp16" if half else None, **unused(pipeline_class)))


def of_file(options):
    file, config = options.model, options.config
    pipeline_class = StableDiffusionXLPipeline if is_sdxl(file) else StableDiffusionPipeline
    # Without a folder, diffusers asks the hub for the configs of the architecture that it recognises.
    extra = {"config": config, "local_files_only": pathlib.Path(config).is_dir()} if config else {}
    return loaded(file, lambda: pipeline_class.from_single_file(
        str(file), dtype=torch.float32, **extra, **unused(pipeline_class)))


def loaded(path, load):
    """What `load` gives, with its errors as one line."""
    try:
        pipe = load()
    except Failure:
        raise
    except Exception as error:
        hint = FAMILIES
        if path.is_file() and "config" in str(error).lower():
            hint = "--config FOLDER: a diffusers folder of the same architecture has the configs that the file lacks"
        raise Failure(f"{path}: {one_line(error)}", hint, MISSING) from error
    pipe.unet.eval(), pipe.vae.eval(), pipe.text_encoder.eval()
    return pipe


def load_taesd(folder):
    kind = read_json(folder / "config.json").get("_class_name")
    if kind != "AutoencoderTiny":
        raise Failure(f"--taesd: {folder} holds {kind}, not AutoencoderTiny", "give a TAESD in the diffusers layout")
    try:
        return AutoencoderTiny.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    except Exception as error:
        raise Failure(f"--taesd: {folder}: {one_line(error)}", "copy or download it anew", MISSING) from error


def unused(pipeline_class):
    own = pipeline_class._optional_components
    extra = {"requires_safety_checker": False} if "safety_checker" in own else {}
    return {name: None for name in UNUSED if name in own} | extra


def has_torch_weights(folder, variant=None):
    ends = (".safetensors", ".bin")
    names = [path.name for path in folder.glob("diffusion_pytorch_model*") if path.name.endswith(ends)]
    if variant is None:
        return bool(names)
    return any((".fp16" in name) == (variant == ".fp16") for name in names)


def is_half_alone(folder):
    """Some repositories carry their weights in f16 alone."""
    return has_torch_weights(folder, ".fp16") and not has_torch_weights(folder, "")


def is_sdxl(file):
    """Whether a checkpoint has SDXL's two text encoders, by the names of its weights."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as weights:
                names = list(weights.keys())
        else:
            weights = torch.load(file, map_location="meta", weights_only=True)
            names = list(weights.get("state_dict", weights))
    except Exception as error:
        raise Failure(f"{file}: {one_line(error, 120)}", "it is no checkpoint, or a damaged one: download it anew", MISSING) from error
    if not any(name.startswith("model.diffusion_model.") for name in names):
        raise Failure(f"{file} has no model.diffusion_model", "a LoRA goes into --lora, a TAESD into --taesd; --model is a whole model")
    return any(name.startswith("conditioner.embedders.1.") for name in names)
