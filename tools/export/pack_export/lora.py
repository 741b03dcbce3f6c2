"""LoRAs, fused into the weights: W becomes W + scale·(alpha/rank)·B·A, which costs nothing at run time."""

from .failure import FAILED, Failure, one_line


def fuse(pipe, options):
    """Fuses the LCM-LoRA and the others, each with its scale."""
    loras = ([("--lcm-lora", options.lcm_lora)] if options.lcm_lora else []) + [("--lora", lora) for lora in options.lora]
    if not loras:
        return
    names = [f"lora_{number}" for number in range(len(loras))]
    for name, (flag, lora) in zip(names, loras):
        load(pipe, name, flag, lora.path)
    try:
        # Together: each is computed from the weights as they were.
        pipe.set_adapters(names, [lora.scale for _, lora in loras])
        pipe.fuse_lora(components=components(pipe), adapter_names=names)
        pipe.unload_lora_weights()
    except Exception as error:
        raise Failure(f"the LoRAs cannot be fused: {one_line(error)}", "try them one by one", FAILED) from error


def load(pipe, name, flag, path):
    weights = {"weight_name": path.name} if path.is_file() else {}
    try:
        pipe.load_lora_weights(str(path.parent if path.is_file() else path), adapter_name=name, local_files_only=True, **weights)
    except Exception as error:
        raise Failure(f"{flag}: {path}: {one_line(error)}", "it is no LoRA, or one of another family than the model") from error
    # What fits nowhere is passed over in silence by diffusers.
    if name not in {adapter for adapters in pipe.get_list_adapters().values() for adapter in adapters}:
        raise Failure(f"{flag}: {path} changes nothing in this model", "it is a LoRA of another family than the model")


def components(pipe):
    """The networks that a LoRA may change."""
    return [part for part in ("unet", "text_encoder", "text_encoder_2") if getattr(pipe, part, None) is not None]
