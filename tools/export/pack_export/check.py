"""Whether a graph gives what PyTorch gives."""

import numpy
import torch

from .failure import FAILED, Failure, one_line
from .graph import cast

# Of the largest value of an output, where that is over 1. A graph in f16 is held to PyTorch's f32.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2}

# Rows, height and width of a latent: one row, and several with times of their own at another size, neither of them the one
# that the graph was traced with.
CALLS = [(1, 16, 16), (3, 8, 24)]


def expected(network):
    """Inputs, and what PyTorch gives for them in f32."""
    torch.manual_seed(1)
    calls = []
    with torch.no_grad():
        for call in CALLS:
            inputs = network.example(*call)
            outputs = network.module(*inputs.values())
            calls.append((inputs, [value.numpy() for value in (outputs if isinstance(outputs, tuple) else (outputs,))]))
    return calls


def session(path, threads=0, provider="CPUExecutionProvider"):
    # Not before it is needed: --no-check works where there is none.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(str(path), options, providers=[provider])


def difference(path, network, calls, dtype, threads=0, provider="CPUExecutionProvider"):
    """The largest difference of any output to PyTorch's, where values over 1 occur as a part of the largest."""
    worst = 0.0
    running = session(path, threads, provider)
    for inputs, wanted in calls:
        feeds = {name: value.numpy() for name, value in cast(inputs, dtype).items()}
        for have, want in zip(running.run(network.outputs, feeds), wanted, strict=True):
            if have.shape != want.shape or not numpy.isfinite(have).all():
                return float("inf")
            worst = max(worst, float(numpy.abs(have.astype(numpy.float32) - want).max() / max(1.0, numpy.abs(want).max())))
    return worst


def check(path, network, calls, dtype, threads=0):
    """The difference, or a failure where it is too large."""
    try:
        found = difference(path, network, calls, dtype, threads)
    except Exception as error:
        raise Failure(f"{network.folder}: ONNX Runtime does not run the exported graph: {one_line(error)}",
                      "leave out --attention fused, or report the model's family", FAILED) from error
    if not found <= TOLERANCE[dtype]:
        hint = "export it with --dtype f32" if dtype == torch.float16 else "report the model's family"
        raise Failure(f"{network.folder}: the graph differs from PyTorch by {found:.1e}, more than {TOLERANCE[dtype]:.0e}", hint, FAILED)
    return found
