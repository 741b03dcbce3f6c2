"""Weights in 8 bits: a quarter of an f32 file. Arithmetic stays that of the graph.

Each weight of a convolution or matrix product becomes whole numbers from -127 to 127 and one scale for each of its output
channels (the largest value of the channel over 127); DequantizeLinear turns them back when the graph is loaded or run."""

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

# Smaller weights save nothing.
LEAST_VALUES = 4096


def with_small_weights(model):
    """A copy of the model with its large weights in 8 bits."""
    small = onnx.ModelProto()
    small.CopyFrom(model)
    graph = small.graph
    channels = output_channels(graph)
    kept, added = [], []
    for weight in graph.initializer:
        axis = channels.get(weight.name)
        if axis is None or weight.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16) or numpy.prod(weight.dims) < LEAST_VALUES:
            kept.append(weight)
            continue
        whole, scales = quantised(numpy_helper.to_array(weight), axis)
        name = weight.name
        kept += [numpy_helper.from_array(whole, f"{name}:int8"), numpy_helper.from_array(scales, f"{name}:scale")]
        # Scales are f32 in this operator set.
        is_half = weight.data_type == TensorProto.FLOAT16
        wide = f"{name}:f32" if is_half else name
        added.append(helper.make_node("DequantizeLinear", [f"{name}:int8", f"{name}:scale"], [wide], f"{name}:dequantise", axis=axis))
        if is_half:
            added.append(helper.make_node("Cast", [wide], [name], f"{name}:cast", to=TensorProto.FLOAT16))
    nodes = added + list(graph.node)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    return small


def output_channels(graph):
    """The axis of the output channels of every weight, by name; weights that are used otherwise too are left out."""
    axes, others = {}, set()
    for node in graph.node:
        for place, name in enumerate(node.input):
            axis = axis_of(node, place)
            if axis is None or axes.get(name, axis) != axis:
                others.add(name)
            else:
                axes[name] = axis
    return {name: axis for name, axis in axes.items() if name not in others}


def axis_of(node, place):
    if place != 1:
        return None
    if node.op_type == "Conv":
        return 0
    if node.op_type == "MatMul":
        return 1
    if node.op_type == "Gemm":
        transposed = next((attribute.i for attribute in node.attribute if attribute.name == "transB"), 0)
        return 0 if transposed else 1
    return None


def quantised(values, axis):
    """Whole numbers and the scale of each channel."""
    values = values.astype(numpy.float32)
    others = tuple(side for side in range(values.ndim) if side != axis)
    peak = numpy.abs(values).max(axis=others, keepdims=True)
    scales = numpy.where(peak > 0, peak / 127, 1).astype(numpy.float32)
    return numpy.rint(values / scales).astype(numpy.int8), scales.reshape(-1)
