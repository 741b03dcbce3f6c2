"""The prompt's cross-attention keys and values, computed once for each prompt instead of in every frame.

StreamDiffusion's paper (arXiv 2312.12491, A.2) keeps them; they depend on the prompt alone. A graph of its own, `prompt_kv`,
makes them of `encoder_hidden_states` [rows, length, width]: one tensor [rows, length, ΣK+V], in which the layers follow each
other in the order of the U-Net's modules, then the ControlNet's, keys before values. The U-Net takes it under the name
`prompt_kv` in place of `encoder_hidden_states` and cuts out what each layer needs. The projections have no bias, so that what
holds for embeddings holds for this tensor: mixtures of prompts are mixtures of it, and zeros stay zeros."""

import torch

from . import attention
from .failure import Failure

# Tokens of a CLIP prompt; for examples alone, the graphs take any length.
LENGTH = 77


class PromptKv(torch.nn.Module):
    """All projections of the prompt as one."""

    def __init__(self, model):
        super().__init__()
        projections = [projection for layer in attention.layers(model, "attn2") for projection in (layer.to_k, layer.to_v)]
        if any(projection.bias is not None for projection in projections):
            raise Failure("the projections of the prompt have a bias", "leave out --prompt-kv")
        weight = torch.cat([projection.weight.detach() for projection in projections])
        self.project = torch.nn.Linear(weight.shape[1], len(weight), bias=False, device="meta")
        self.project.weight = torch.nn.Parameter(weight, requires_grad=False)

    def forward(self, encoder_hidden_states):
        return self.project(encoder_hidden_states)


def use_ready_ones(model, attend):
    """Makes the model take keys and values in place of `encoder_hidden_states`; gives their width."""
    start = 0
    for layer in attention.layers(model, "attn2"):
        width = layer.to_k.out_features
        layer.set_processor(attention.Processor(attend, (start, width)))
        layer.to_k = layer.to_v = None
        start += 2 * width
    return start
