"""From a module to an ONNX file."""

import contextlib
import io
import logging
import pathlib
import tempfile
import warnings

import onnx
import torch

from .failure import FAILED, Failure, one_line

# What the engine's own graphs are written in; every ONNX Runtime since 1.15 reads it.
OPSET = 17

# Above this, weights go into a file of their own beside the graph: a graph of over 2 GB cannot be stored, and one with its
# weights inside is read whole into memory before it is loaded.
INLINE_BYTES = 256 << 20


def export(network, dtype):
    """The network as an ONNX model in memory. Its module is of `dtype` afterwards."""
    network.module.to(dtype)
    inputs = cast(network.example(2, *trace_sides()), dtype)
    with tempfile.TemporaryDirectory() as work, quiet(), torch.no_grad():
        path = pathlib.Path(work, "model.onnx")
        try:
            torch.onnx.export(network.module, tuple(inputs.values()), str(path), input_names=list(inputs), output_names=network.outputs,
                              dynamic_axes=network.axes, opset_version=OPSET, dynamo=False, do_constant_folding=True)
        except Exception as error:
            raise Failure(f"{network.folder}: PyTorch cannot export it: {one_line(error)}", "this is a defect of the exporter or a model "
                          "of another kind: --no-check changes nothing about it", FAILED) from error
        return onnx.load(str(path))


def trace_sides():
    """Height and width of the latent that graphs are traced with."""
    from .networks import SIDE

    return SIDE, SIDE


def cast(inputs, dtype):
    """Inputs as the network takes them. Times and sizes stay in f32: bf16 and f16 round them."""
    keep = ("timestep", "time_ids", "input_ids")
    return {name: value if name in keep else value.to(dtype) for name, value in inputs.items()}


def save(model, path):
    """Writes the model, large weights beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A model of over 2 GB cannot even be asked for its size.
    if sum(len(weight.raw_data) for weight in model.graph.initializer) <= INLINE_BYTES:
        onnx.save_model(model, str(path))
        return
    # What is small stays inside: the engine reads such tensors without loading the network.
    onnx.save_model(model, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=f"{path.name}_data",
                    size_threshold=4096)
    # It is made readable for its owner alone; the graph has what the user's umask says.
    path.with_name(f"{path.name}_data").chmod(path.stat().st_mode)


@contextlib.contextmanager
def quiet():
    """Without the exporter's remarks: of what it remarks on, everything is compared with PyTorch afterwards."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxruntime", "root")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before):
                logger.setLevel(level)
