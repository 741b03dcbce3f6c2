"""A pack back to checkpoints, so that training goes on from it where no checkpoint is left."""

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from . import pack, progress
from .captions import TOKENS
from .networks import TABLES, Decoder, Encoder, TextEncoder, UNet
from .styles import STYLES
from .unet import Trainer
from .vae import RATES, optimisers
from .vocabulary import Vocabulary

HAD = 0.7
"""Share of the training that a pack counts as having had: the rate begins at 0.16 of the highest. With less, more would be
unlearnt first; with more, there is hardly a rate left to learn at."""


def initializers(path: Path) -> dict[str, np.ndarray]:
    """Weights of a graph by name, as f32 whatever they lie on disk as."""
    return {
        tensor.name.removesuffix(".f16"): numpy_helper.to_array(tensor).astype(np.float32)
        for tensor in onnx.load(path).graph.initializer
    }


def fill(module: nn.Module, part: str, folder: Path) -> nn.Module:
    """Gives a network the weights of its graph in `folder`.

    Export renames and transposes some of them. What becomes of each is seen by exporting the network with weights of its own.
    """
    module.eval()
    kept = fixed(module)
    for name, tensor in module.state_dict().items():
        if name not in kept:
            tensor.uniform_(0.01, 0.05)  # fresh ones are all zero or all one in several places
    with tempfile.TemporaryDirectory() as made:
        inputs, output, axes = pack.signature(part)
        pack.graph(pack.rounded(module), inputs, output, axes, Path(made) / part)
        ours, theirs = initializers(Path(made) / part / "model.onnx"), initializers(folder / part / "model.onnx")
    for name, tensor in module.state_dict().items():
        if name not in kept:
            tensor.copy_(torch.from_numpy(found(name, tensor, ours, theirs, folder / part)))
    return module


def fixed(module: nn.Module) -> set[str]:
    """Names of what is not learnt: tables, and the counter of batches."""
    return {name for name in module.state_dict() if name in TABLES or name.endswith("num_batches_tracked")}


def found(name: str, tensor: Tensor, ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], part: Path) -> np.ndarray:
    """The pack's values of one weight."""
    own = tensor.numpy()
    for key, value in ours.items():
        for turned in (value, value.T):
            if turned.shape == own.shape and np.array_equal(turned, own):
                if key not in theirs or theirs[key].shape != value.shape:
                    raise SystemExit(f"error: {part} has no weights like {name}\nhint: only a pack of the present networks can be gone on from")
                return np.ascontiguousarray(theirs[key].T if turned is not value else theirs[key])
    raise SystemExit(f"error: {name} is not found in its own graph")


def write(folder: Path, vocabulary_path: Path, text_path: Path, vae_path: Path, unet_path: Path, minutes: dict[str, float], seed: int) -> None:
    """Writes checkpoints of text encoder, autoencoder and U-Net as if trained for so many minutes, the U-Net for `HAD` of them."""
    vocabulary = Vocabulary.load(vocabulary_path)
    words = json.loads((folder / "tokenizer/tokenizer.json").read_text())["model"]["vocab"]
    if words != vocabulary.index:
        raise SystemExit(f"error: {folder} has another vocabulary than {vocabulary_path}\nhint: train anew, without --from")
    encoder, decoder = fill(Encoder(), "vae_encoder", folder), fill(Decoder(), "vae_decoder", folder)
    text = fill(TextEncoder(torch.from_numpy(vocabulary.vectors), len(STYLES)), "text_encoder", folder)
    unet = fill(UNet(), "unet", folder)
    autoencoder = {"encoder": encoder.state_dict(), "decoder": decoder.state_dict(), "step": 0, "spent": minutes["vae"]}
    fresh = [optimiser.state_dict() for optimiser in optimisers([encoder, decoder], *RATES)]
    progress.save({"text": text.state_dict(), "tokens": TOKENS}, text_path)
    progress.save(autoencoder | {"optimisers": fresh}, vae_path)
    trainer = Trainer(vocabulary, {"text": text.state_dict()}, autoencoder, seed)
    for modules in (trainer.modules(), trainer.averages):
        modules["unet"].load_state_dict(unet.state_dict())
    progress.save(trainer.state() | {"spent": HAD * minutes["unet"]}, unet_path)
