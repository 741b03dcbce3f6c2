"""From the options to a pack."""

import gc
import pathlib
import sys
import tempfile
import time

import torch

from . import check, companions, controlnet, family, graph, int8, load, lora, networks
from .failure import FAILED, Failure

DTYPES = {"f32": torch.float32, "f16": torch.float16}


def make(options):
    """Makes the pack beside its final name and moves it there when it is whole."""
    if options.threads:
        torch.set_num_threads(options.threads)
    out = options.out.resolve()
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", suffix=".part", dir=out.parent) as work:
            folder = pathlib.Path(work, "pack")
            folder.mkdir()
            write(options, folder)
            put_in_place(folder, out, pathlib.Path(work))
    except OSError as error:
        raise Failure(f"{error.filename or out}: {error.strerror or error}", "is there room, and may you write there?", FAILED) from error


def write(options, folder):
    """All files of the pack."""
    say(f"reading {options.model}")
    control = controlnet.load(options.controlnet) if options.controlnet else None
    pipe = load.pipeline(options)
    if control is not None:
        controlnet.check_fits(control, pipe.unet, options.controlnet)
    lora.fuse(pipe, options)
    kind = family.of(pipe, options)
    if kind is family.PLAIN:
        say("note: this model was not distilled for few steps: fuse an LCM-LoRA (--lcm-lora), or expect to need many steps")
    parts = networks.all_of(pipe, control, options)
    companions.write(pipe, parts, kind, options, folder)
    # Before any of them: what is exported in f16 stays in f16, and the halves of a VAE are one module.
    calls = {network.folder: check.expected(network) for network in parts} if options.check else {}
    while parts:
        # One by one, so that only one graph is in memory beside the model.
        network = parts.pop(0)
        write_network(network, calls.get(network.folder), options, folder)
        del network
        gc.collect()


def write_network(network, calls, options, folder):
    started = time.monotonic()
    dtype = DTYPES[options.dtype]
    if network.keeps_f32 and dtype == torch.float16:
        say(f"note: {network.folder} stays in f32: its config says that it overflows in f16 (a TAESD does not: --taesd)")
        dtype = torch.float32
    model = graph.export(network, dtype)
    path = folder / network.folder / "model.onnx"
    graph.save(model, path)
    found = f", differs from PyTorch by {check.check(path, network, calls, dtype, options.threads):.1e}" if calls else ""
    say(f"{network.folder}: {dtype_name(dtype)}, {size(path)}{found}, {time.monotonic() - started:.0f} s")
    if options.int8 and network.folder == "unet":
        small = path.with_name("model_int8.onnx")
        graph.save(int8.with_small_weights(model), small)
        found = f", differs from PyTorch by {check.difference(small, network, calls, dtype, options.threads):.1e}" if calls else ""
        say(f"{network.folder}: 8-bit weights, {size(small)}{found}")


def put_in_place(folder, out, work):
    """Renames the folder to its final name; what was there goes away after the new one is whole."""
    if out.exists():
        out.rename(work / "old")
    folder.rename(out)


def dtype_name(dtype):
    return next(name for name, known in DTYPES.items() if known == dtype)


def size(path):
    """Size of a graph with its weights, as text."""
    both = [path, path.with_name(path.name + "_data")]
    return f"{sum(file.stat().st_size for file in both if file.exists()) / 1e6:.1f} MB"


def say(text):
    print(text, file=sys.stderr, flush=True)
