"""Everything of a pack that is no network: configs, tokenizers, the scheduler, licences, pack.toml."""

import json
import shutil

import diffusers
from diffusers import LCMScheduler

# Class names as Optimum writes them, so that its readers know the folder.
PIPELINES = {False: "ORTStableDiffusionPipeline", True: "ORTStableDiffusionXLPipeline"}


def write(pipe, networks, family, options, folder):
    for network in networks:
        if network.config:
            write_json(folder / network.folder / "config.json", plain(network.config))
    scheduler = pipe.scheduler
    if options.lcm_lora:
        scheduler = LCMScheduler.from_config(scheduler.config)
    scheduler.save_pretrained(folder / "scheduler")
    source = options.model if options.model.is_dir() else None
    for name in ("tokenizer", "tokenizer_2"):
        tokenizer = getattr(pipe, name, None)
        if source and (source / name).is_dir():
            shutil.copytree(source / name, folder / name)
        elif tokenizer is not None:
            tokenizer.save_pretrained(folder / name)
    for licence in sorted(source.glob("LICENSE*")) if source else []:
        if licence.is_file():
            shutil.copy(licence, folder / licence.name)
    write_json(folder / "model_index.json", index(pipe, networks))
    (folder / "pack.toml").write_text(pack_toml(pipe, family, options))


def index(pipe, networks):
    is_sdxl = getattr(pipe, "text_encoder_2", None) is not None
    made = {"_class_name": PIPELINES[is_sdxl], "_diffusers_version": diffusers.__version__}
    made["scheduler"] = ["diffusers", type(pipe.scheduler).__name__]
    for name in ("tokenizer", "tokenizer_2"):
        if getattr(pipe, name, None) is not None:
            made[name] = ["transformers", type(getattr(pipe, name)).__name__]
    made |= {network.folder: ["optimum", "ORTModel"] for network in networks}
    if is_sdxl:
        made["force_zeros_for_empty_prompt"] = bool(pipe.config.get("force_zeros_for_empty_prompt", True))
    return made


def pack_toml(pipe, family, options):
    """`pack.toml`: a title, the licence where it was given, and the defaults of the family."""
    side = 8 * (pipe.unet.config.sample_size or 64)
    title = options.title or options.model.resolve().stem
    lines = [f"title = {json.dumps(title, ensure_ascii=False)}"]
    if options.licence:
        lines.append(f"licence = {json.dumps(options.licence, ensure_ascii=False)}")
    fused = ([options.lcm_lora] if options.lcm_lora else []) + options.lora
    if fused:
        names = ", ".join(f"{lora.path.name} x {lora.scale:g}" for lora in fused)
        lines.append(f"fused = {json.dumps(names, ensure_ascii=False)}")
    if options.controlnet:
        lines.append(f"controlnet = {json.dumps(options.controlnet.resolve().name, ensure_ascii=False)}")
    lines += ["", f"# For a model of the family {family.title}.", "[defaults]", f'size = "{side}x{side}"']
    if options.controlnet:
        lines.append(f"preprocessor = {json.dumps(options.preprocessor)}")
    lines += [f"{key} = {json.dumps(value)}" for key, value in family.defaults.items()]
    return "\n".join(lines) + "\n"


def plain(config):
    """A config without what names the machine it came from."""
    return {key: value for key, value in config.items() if key != "_name_or_path"}


def write_json(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, default=str) + "\n")
