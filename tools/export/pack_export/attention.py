"""The U-Net's attention, and a ControlNet's, as PyTorch's or as one operator of ONNX Runtime's own.

The operator (`MultiHeadAttention`, domain com.microsoft) never holds the matrix of all weights at once. It is what the
optimizer of `onnxruntime.transformers` puts in the place of the nodes that it recognises as attention. That recognises f32
graphs of this version of PyTorch and neither those in f16 nor layers whose keys and values come ready, so that the operator
is exported as such. ONNX Runtime's CPU and CUDA providers have it, OpenVINO has not: the engine says so."""

import torch
from torch.nn import functional

from .failure import Failure


def plain(query, key, value, heads):
    """Attention by heads; all tensors are [rows, length, width]."""

    def split(tensor):
        return tensor.unflatten(-1, (heads, -1)).transpose(1, 2)

    return functional.scaled_dot_product_attention(split(query), split(key), split(value)).transpose(1, 2).flatten(2)


class Fused(torch.autograd.Function):
    """The same, exported as the operator."""

    @staticmethod
    def symbolic(graph, query, key, value, heads):
        found = graph.op("com.microsoft::MultiHeadAttention", query, key, value, num_heads_i=heads)
        found.setType(query.type())
        return found

    @staticmethod
    def forward(_, query, key, value, heads):
        return plain(query, key, value, heads)


KINDS = {"plain": plain, "fused": Fused.apply}


class Processor:
    """How a layer attends, called as diffusers' processors are. `ready` is where its keys and values stand in `prompt_kv`;
    without it they are projected from the prompt, or from the picture itself."""

    def __init__(self, attend, ready=None):
        self.attend, self.ready = attend, ready

    def __call__(self, layer, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **_):
        if self.ready is not None:
            start, width = self.ready
            key = encoder_hidden_states[:, :, start : start + width]
            value = encoder_hidden_states[:, :, start + width : start + 2 * width]
        else:
            source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
            key, value = layer.to_k(source), layer.to_v(source)
        found = self.attend(layer.to_q(hidden_states), key, value, layer.heads)
        return layer.to_out[0](found) / layer.rescale_output_factor


def layers(model, ending=("attn1", "attn2")):
    """The layers that look at the picture (`attn1`) and at the prompt (`attn2`), in the order of the model's modules."""
    found = [module for name, module in model.named_modules() if name.endswith(ending)]
    for layer in found:
        odd = layer.norm_cross or layer.group_norm or layer.spatial_norm or layer.residual_connection or layer.added_kv_proj_dim
        if odd or layer.norm_q is not None:
            raise Failure("the attention of this model is not that of Stable Diffusion", "leave out --prompt-kv and --attention fused")
    return found


def fuse(model):
    """Makes every layer be exported as the operator."""
    for layer in layers(model):
        layer.set_processor(Processor(Fused.apply))
