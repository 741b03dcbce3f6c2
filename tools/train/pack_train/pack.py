"""Checkpoints to a pack: ONNX files in diffusers' layout, its tokenizer, its configs and its presets.

Arithmetic is f32; large weights lie on disk as f16, each behind a `Cast` that ONNX Runtime folds away when it loads.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from . import progress
from .captions import PROMPTS, TOKENS, preset
from .networks import LATENTS, SCALE, TABLES, TEXT, Decoder, Encoder, TextEncoder, UNet
from .vocabulary import Vocabulary

OPSET = 17
EXACT = 256
"""Tensors of fewer values stay f32: biases and scales, which cost nothing."""
DEFAULT_INDEX = [47]
FINEST = 100
"""Times of LCM's table (original_inference_steps) that an engine may take evenly so many of. Of the usual 50 times any multiple has all;
with 50 itself no four steps could begin where one is best."""
DIFFERENCE = 2e-3
"""Largest difference of a graph from its PyTorch network that is taken for f16's rounding of the weights."""


def halved(path: Path) -> None:
    """Stores the large weights of a graph as f16."""
    model = onnx.load(path)
    graph = model.graph
    casts = []
    for tensor in list(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < EXACT or tensor.name in TABLES:
            continue
        half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{tensor.name}.f16")
        casts.append(helper.make_node("Cast", [half.name], [tensor.name], to=TensorProto.FLOAT, name=f"{tensor.name}.f32"))
        graph.initializer.remove(tensor)
        graph.initializer.append(half)
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    onnx.checker.check_model(model)
    onnx.save(model, path)


def rounded(module: nn.Module) -> nn.Module:
    """The network with the weights that its file will hold, so that a comparison sees only what is wrong."""
    for name, tensor in module.state_dict().items():
        if tensor.dtype == torch.float32 and tensor.numel() >= EXACT and name not in TABLES:
            tensor.copy_(tensor.half().float())
    return module


def picture_axes(batch: str, height: str, width: str) -> dict[int, str]:
    return {0: batch, 2: height, 3: width}


def graph(module: nn.Module, inputs: dict[str, torch.Tensor], output: str, axes: dict[str, dict[int, str]], folder: Path) -> None:
    folder.mkdir(parents=True)
    path = folder / "model.onnx"
    torch.onnx.export(
        module, tuple(inputs.values()), str(path), input_names=list(inputs), output_names=[output], dynamic_axes=axes,
        opset_version=OPSET, dynamo=False, do_constant_folding=True,
    )  # fmt: skip
    halved(path)


def signature(part: str) -> tuple[dict[str, torch.Tensor], str, dict[str, dict[int, str]]]:
    """Inputs, output and free dimensions of a graph."""
    image, latent = picture_axes("batch", "height", "width"), picture_axes("batch", "latent_height", "latent_width")
    z = torch.randn(2, LATENTS, 64, 64)
    told = {"sample": z, "timestep": torch.tensor([400, 100]), "encoder_hidden_states": torch.randn(2, TOKENS, TEXT)}
    free = {"sample": latent, "timestep": {0: "batch"}, "encoder_hidden_states": {0: "batch", 1: "sequence"}, "out_sample": latent}
    ids = {"input_ids": torch.ones(2, TOKENS, dtype=torch.long)}
    return {
        "vae_encoder": ({"sample": torch.randn(2, 3, 256, 256)}, "latent_sample", {"sample": image, "latent_sample": latent}),
        "vae_decoder": ({"latent_sample": z}, "sample", {"latent_sample": latent, "sample": image}),
        "unet": (told, "out_sample", free),
        "text_encoder": (ids, "last_hidden_state", {"input_ids": {0: "batch"}, "last_hidden_state": {0: "batch"}}),
    }[part]


def tokenizer(vocabulary: Vocabulary, folder: Path) -> None:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel(vocab=vocabulary.index, unk_token="[UNK]"))
    made.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[a-z]+|[0-9]+"), "removed", invert=True)
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    made.enable_truncation(TOKENS)
    made.enable_padding(length=TOKENS, pad_id=0, pad_token="[PAD]")
    for text in ("a pencil sketch, of a CAT!", "", "Oil-painting 8 bit wobblefoo " * 8):
        if made.encode(text).ids != vocabulary.ids(text):
            raise SystemExit(f"error: the tokenizer splits {text!r} otherwise than training did")
    folder.mkdir(parents=True)
    made.save(str(folder / "tokenizer.json"), pretty=False)


def config(path: Path, **values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1) + "\n")


def configs(vocabulary: Vocabulary, unet: UNet, folder: Path) -> None:
    runtime, version = ["diffusers", "OnnxRuntimeModel"], "0.30.0"
    config(
        folder / "model_index.json", _class_name="OnnxStableDiffusionImg2ImgPipeline", _diffusers_version=version,
        scheduler=["diffusers", "LCMScheduler"], text_encoder=runtime, tokenizer=["transformers", "PreTrainedTokenizerFast"],
        unet=runtime, vae_decoder=runtime, vae_encoder=runtime, safety_checker=[None, None], feature_extractor=[None, None],
        requires_safety_checker=False,
    )  # fmt: skip
    config(
        folder / "scheduler/scheduler_config.json", _class_name="LCMScheduler", _diffusers_version=version, beta_start=0.00085,
        beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000, original_inference_steps=FINEST,
        prediction_type="epsilon", clip_sample=False, set_alpha_to_one=True, steps_offset=0, timestep_spacing="leading",
        timestep_scaling=10.0, rescale_betas_zero_snr=False, thresholding=False,
    )  # fmt: skip
    for part in ("vae_encoder", "vae_decoder"):
        config(
            folder / part / "config.json", _class_name="AutoencoderTiny", in_channels=3, out_channels=3, latent_channels=LATENTS,
            scaling_factor=SCALE, shift_factor=0.0, force_upcast=False, block_out_channels=[32, 64, 64], sample_size=256,
            spatial_scale_factor=4,
        )  # fmt: skip
    widths = [unet.enter.out_channels, *(layer.out_channels for layer in (unet.stride0, unet.stride1, unet.stride2))]
    config(
        folder / "unet/config.json", _class_name="UNet2DConditionModel", sample_size=64, in_channels=LATENTS,
        out_channels=LATENTS, cross_attention_dim=TEXT, block_out_channels=widths, prediction_type="epsilon",
        time_cond_proj_dim=None, latent_multiple=8,
    )  # fmt: skip
    config(
        folder / "text_encoder/config.json", architectures=["TinyTextEncoder"], hidden_size=TEXT,
        max_position_embeddings=TOKENS, num_hidden_layers=2, vocab_size=len(vocabulary.index),
    )  # fmt: skip
    config(
        folder / "tokenizer/tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", model_max_length=TOKENS,
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
    )  # fmt: skip


def presets(folder: Path) -> None:
    """`pack.toml`: what is used where nothing else is asked for, and one preset for each style."""
    index = ", ".join(map(str, DEFAULT_INDEX))
    text = "# Of this file: a program that knows only older ones says so.\nformat = 1\n\n"
    text += "# What this pack is used with where nothing else is asked for.\n\n"
    text += f'[defaults]\nsize = "256x256"\nt-index = [{index}]\nguidance = 1.0\n'
    text += "# Of several steps: noise between them would hide again what the first has drawn.\nadd-noise = false\n"
    text += "\n# One for each style that the pack was trained on.\n"
    for style, prompt in PROMPTS.items():
        text += f'\n[[presets]]\nname = "{preset(style)}"\nprompt = "{prompt}"\nt-index = [{index}]\nguidance = 1.0\n'
    (folder / "pack.toml").write_text(text)


def check(folder: Path, encoder: Encoder, decoder: Decoder, unet: UNet, text: TextEncoder, vocabulary: Vocabulary) -> None:
    """Every graph against its network, at two sizes and batch sizes."""
    import onnxruntime

    parts = ("vae_encoder", "vae_decoder", "unet", "text_encoder")
    run = {part: onnxruntime.InferenceSession(str(folder / part / "model.onnx"), providers=["CPUExecutionProvider"]) for part in parts}
    prompts = ["a pencil sketch of a cat", "neon", ""]
    for batch, height, width in ((1, 64, 64), (3, 40, 72)):
        with torch.no_grad():
            picture = torch.rand(batch, 3, height * 4, width * 4) * 2 - 1
            latents = encoder(picture)
            ids = torch.tensor([vocabulary.ids(prompt) for prompt in prompts[:batch]])
            context = text(ids)
            timestep = torch.tensor([59, 359, 699])[:batch]
            pairs = {
                "vae_encoder": ({"sample": picture}, latents),
                "vae_decoder": ({"latent_sample": latents}, decoder(latents)),
                "text_encoder": ({"input_ids": ids}, context),
                "unet": (
                    {"sample": latents, "timestep": timestep, "encoder_hidden_states": context},
                    unet(latents, timestep, context),
                ),
            }
        for part, (inputs, wanted) in pairs.items():
            (found,) = run[part].run(None, {name: value.numpy() for name, value in inputs.items()})
            apart = float(np.abs(found - wanted.numpy()).max() / max(1.0, float(wanted.abs().max())))
            print(f"{part} {list(wanted.shape)}: off PyTorch by {apart:.1e}", flush=True)
            if apart > DIFFERENCE:
                raise SystemExit(f"error: the graph of {part} is off its network by {apart:.1e}, more than {DIFFERENCE:.0e}")


def write(vocabulary_path: Path, vae: Path, unet_path: Path, folder: Path) -> None:
    """Writes the pack into `folder`, whole or not at all."""
    vocabulary = Vocabulary.load(vocabulary_path)
    autoencoder, kept = progress.load(vae), progress.load(unet_path)
    if autoencoder is None or kept is None:
        raise SystemExit(f"error: there is no checkpoint {vae if autoencoder is None else unet_path}\nhint: train first")
    encoder, decoder, unet = Encoder(), Decoder(), UNet()
    text = TextEncoder(torch.from_numpy(vocabulary.vectors), len(PROMPTS))
    encoder.load_state_dict(autoencoder["encoder"])
    for module, name in ((unet, "unet"), (text, "text"), (decoder, "decoder")):
        module.load_state_dict(kept["average"][name])
    for module in (encoder, decoder, unet, text):
        rounded(module.eval())
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    for module, name in ((encoder, "vae_encoder"), (decoder, "vae_decoder"), (unet, "unet"), (text, "text_encoder")):
        graph(module, *signature(name), part / name)
    tokenizer(vocabulary, part / "tokenizer")
    configs(vocabulary, unet, part)
    presets(part)
    check(part, encoder, decoder, unet, text, vocabulary)
    if folder.exists():
        shutil.rmtree(folder)
    part.rename(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB", flush=True)
