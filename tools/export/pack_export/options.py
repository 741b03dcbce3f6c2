"""The command line."""

import argparse
import dataclasses
import pathlib
import sys

from .failure import USAGE, Failure

EXAMPLES = """examples:
  export.sh --model sd-turbo/ --out packs/sd-turbo --dtype f16 --taesd taesd/
  export.sh --model dreamshaper.safetensors --config sd15/ --lcm-lora lcm-lora.safetensors --lora ghibli.safetensors=0.8 --out packs/ghibli
  export.sh --model sd15/ --lcm-lora lcm-lora.safetensors --controlnet sd15-canny/ --out packs/sd15-canny
"""


@dataclasses.dataclass(frozen=True)
class Lora:
    """A LoRA's file and the scale that it is fused with."""

    path: pathlib.Path
    scale: float

    @classmethod
    def parse(cls, text):
        """PATH or PATH=SCALE."""
        path, equals, scale = text.rpartition("=")
        if not equals:
            return cls(pathlib.Path(text), 1.0)
        try:
            return cls(pathlib.Path(path), float(scale))
        except ValueError:
            # A path may have an equals sign of its own.
            return cls(pathlib.Path(text), 1.0)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors look like everybody's here."""

    def error(self, message):
        raise Failure(message, "tools/export/export.sh --help lists the options", USAGE)


def parser():
    made = Parser(
        prog="export.sh",
        description="Makes a model pack of a Stable Diffusion model in PyTorch. docs/export.md has more.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    path = pathlib.Path
    made.add_argument("--model", type=path, required=True, metavar="PATH",
                      help="a diffusers folder, or a checkpoint in one file (.safetensors, .ckpt)")
    made.add_argument("--out", type=path, required=True, metavar="PACK", help="the folder to make")
    made.add_argument("--config", metavar="FOLDER",
                      help="for a checkpoint in one file: a diffusers folder of the same architecture, of which the configs, the "
                      "tokenizer and the scheduler are taken (or the name of a repository on the Hugging Face hub)")
    made.add_argument("--dtype", choices=["f32", "f16"], default="f32", help="type of weights and arithmetic (default: f32)")
    made.add_argument("--taesd", type=path, metavar="FOLDER", help="a TAESD (AutoencoderTiny) in place of the model's own VAE")
    made.add_argument("--lcm-lora", type=Lora.parse, metavar="FILE[=SCALE]",
                      help="an LCM-LoRA to fuse: the pack becomes one for a few steps of LCM")
    made.add_argument("--lora", type=Lora.parse, action="append", default=[], metavar="FILE[=SCALE]",
                      help="a LoRA to fuse; may be given several times")
    made.add_argument("--controlnet", type=path, metavar="FOLDER",
                      help="a ControlNet (ControlNetModel) to fuse into the U-Net's graph")
    made.add_argument("--preprocessor", choices=["canny", "gray", "passthrough"],
                      help="what the ControlNet is shown of a frame: its edges, it in grey, or it as it is (default: canny)")
    made.add_argument("--attention", choices=["plain", "fused"], default="plain",
                      help="fused: one operator of ONNX Runtime's own for each attention (default: plain)")
    made.add_argument("--prompt-kv", action="store_true",
                      help="the keys and values of the prompt in a graph of their own, run once for each prompt")
    made.add_argument("--int8", action="store_true", help="also write the U-Net with weights in 8 bits: unet/model_int8.onnx")
    made.add_argument("--family", choices=["auto", "sd", "lcm", "turbo"], default="auto",
                      help="what the pack's defaults are for (default: told by the configs)")
    made.add_argument("--title", help="name of the pack in pack.toml (default: that of the folder)")
    made.add_argument("--licence", help="licence of the weights, for pack.toml")
    made.add_argument("--force", action="store_true", help="replace PACK if it exists")
    made.add_argument("--no-check", dest="check", action="store_false", help="do not compare the graphs with PyTorch")
    made.add_argument("--threads", type=int, default=0, help="threads of PyTorch and ONNX Runtime (default: all cores)")
    return made


def parse(arguments=None):
    """The options, checked as far as that can be done before anything large is loaded."""
    options = parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    named = [("--model", options.model), ("--taesd", options.taesd), ("--controlnet", options.controlnet)]
    loras = [("--lora", lora) for lora in options.lora] + [("--lcm-lora", options.lcm_lora)]
    named += [(flag, lora.path) for flag, lora in loras if lora]
    for flag, path in named:
        if path is not None and not path.exists():
            raise Failure(f"{flag}: {path} does not exist", "give the path of a local file or folder; this tool downloads no models")
    if options.out.exists() and not options.force:
        raise Failure(f"--out: {options.out} exists", "--force replaces it")
    if not options.out.resolve().parent.is_dir():
        raise Failure(f"--out: {options.out.parent} is no folder", f"mkdir -p {options.out.parent}")
    for what, path in [("model", options.model), ("ControlNet", options.controlnet)]:
        if path and options.out.resolve() in [path.resolve(), *path.resolve().parents]:
            raise Failure(f"--out: {options.out} holds the {what} itself", "choose another folder")
    if options.config and options.model.is_dir():
        raise Failure("--config is for a checkpoint in one file", "leave it out: a diffusers folder has its own configs")
    if options.preprocessor and not options.controlnet:
        raise Failure("--preprocessor is for a ControlNet", "name one with --controlnet, or leave it out")
    options.preprocessor = options.preprocessor or "canny"
    return options
