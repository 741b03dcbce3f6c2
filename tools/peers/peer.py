#!/usr/bin/env python3
"""A peer of `livediffusion bench compare`: StreamDiffusion's own Python loop over the networks of a pack.

It prints one JSON line when it is ready, then reads numbers of frames from its standard input and answers each with the
mean milliseconds of a frame, from an 8-bit picture in memory to an 8-bit picture in memory."""

import argparse
import json
import os
import pathlib
import sys
import time
import types
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
warnings.filterwarnings("ignore")

# Answers go to the real standard output; what libraries print does not.
answers, sys.stdout = sys.stdout, sys.stderr


def answer(**values):
    print(json.dumps(values), file=answers, flush=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["torch_f32", "torch_bf16", "openvino_bf16"], required=True)
    parser.add_argument("--pack", type=pathlib.Path, required=True, help="folder in the diffusers ONNX layout")
    parser.add_argument("--torch-model", type=pathlib.Path, help="the same model in the diffusers torch layout")
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--height", type=int, required=True)
    parser.add_argument("--t-index", type=lambda text: [int(index) for index in text.split(",")], required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--prompt", default="oil painting")
    return parser.parse_args()


def without_gpu(torch):
    """The loop times itself with CUDA's events: ordinary clocks stand in."""

    class Event:
        def __init__(self, **_):
            self.at = 0.0

        def record(self):
            self.at = time.perf_counter()

        def elapsed_time(self, end):
            return 1e3 * (end.at - self.at)

    torch.cuda.Event = Event
    torch.cuda.synchronize = lambda *_: None


class Networks:
    """The pack's networks as functions from named tensors to the first output."""

    def __init__(self, options, torch):
        self.torch, self.options = torch, options
        self.on_torch = options.engine.startswith("torch")
        self.dtype = torch.bfloat16 if options.engine == "torch_bf16" else torch.float32
        import openvino

        self.core = openvino.Core()

    def file(self, part):
        return str(self.options.pack / part / "model.onnx")

    def load(self, part, precision="bf16"):
        torch = self.torch
        # The text encoder is off the frame's way: it runs on OpenVINO for all.
        if self.on_torch and part != "text_encoder":
            import onnx
            import onnx2torch

            graph = with_plain_weights(onnx.load(self.file(part)))
            names = [value.name for value in graph.graph.input]
            module = onnx2torch.convert(graph).to(self.dtype).eval()
            for node in module.modules():
                # Casts to f32 that are written in the graph mean the type that the network computes in.
                if getattr(node, "torch_dtype", None) == torch.float32:
                    node.torch_dtype = self.dtype
                # It asks the graph for a shape that is known only when the graph runs; the weight has it too.
                if isinstance(node, torch.nn.LayerNorm):
                    node.normalized_shape = tuple(node.weight.shape)
                # onnx2torch's Clip makes floats of the whole numbers that pick a row.
                if type(node).__name__ == "OnnxGather":
                    node.register_forward_pre_hook(lambda _, inputs: (inputs[0], inputs[1].long()))

            def call(**feeds):
                out = module(*(feeds[name] for name in names))
                return out[0] if isinstance(out, (tuple, list)) else out

            return call
        properties = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.options.threads,
            "INFERENCE_PRECISION_HINT": precision,
        }
        request = self.core.compile_model(self.file(part), "CPU", properties).create_infer_request()

        def infer(**feeds):
            arrays = {name: value.contiguous().numpy() for name, value in feeds.items()}
            # A copy: the request writes its next output into the same memory.
            return torch.from_numpy(request.infer(arrays, share_inputs=True)[0].copy())

        return infer


def with_plain_weights(model):
    """Weights that are stored in f16 and cast when the graph runs, cast now: onnx2torch looks for weights alone."""
    import numpy
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer if weight.data_type == TensorProto.FLOAT16}
    for node in [node for node in graph.node if node.op_type == "Cast" and node.input[0] in weights]:
        values = numpy_helper.to_array(weights[node.input[0]]).astype(numpy.float32)
        graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        graph.node.remove(node)
    return model


def config(pack, part):
    return json.loads((pack / part / "config.json").read_text())


def graph_inputs(pack, part):
    import onnx

    graph = onnx.load(str(pack / part / "model.onnx"), load_external_data=False).graph
    weights = {weight.name for weight in graph.initializer}
    return [value.name for value in graph.input if value.name not in weights]


def embedding(options, networks, torch):
    """The prompt as the text encoder gives it, in f32 as ours is: it is computed once."""
    import onnx
    import tokenizers
    import transformers

    folder = options.pack / "tokenizer"
    limit = config(options.pack, "text_encoder").get("max_position_embeddings", 77)
    if (folder / "vocab.json").is_file():
        tokenizer = transformers.CLIPTokenizer.from_pretrained(str(folder))
        ids, pad = tokenizer(options.prompt)["input_ids"][:limit], tokenizer.pad_token_id
    else:
        # It pads and cuts by itself.
        ids, pad = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(options.prompt).ids, 0
    ids = torch.tensor([ids + [pad] * (limit - len(ids))])
    graph = onnx.load(networks.file("text_encoder"), load_external_data=False).graph
    wide = graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT64
    feeds = {graph.input[0].name: ids if wide else ids.int()}
    for extra in graph.input[1:]:
        feeds[extra.name] = (ids != pad).to(feeds[graph.input[0].name].dtype)
    return networks.load("text_encoder", precision="f32")(**feeds).float()


def pipe_of_pack(options, torch):
    """What StreamDiffusion wants of a diffusers pipeline, around the pack's own graphs."""
    from diffusers import LCMScheduler

    networks = Networks(options, torch)
    unet, encoder, decoder = (networks.load(part) for part in ("unet", "vae_encoder", "vae_decoder"))
    tokens = embedding(options, networks, torch).to(networks.dtype)
    (pixels,) = graph_inputs(options.pack, "vae_encoder")
    (latents,) = graph_inputs(options.pack, "vae_decoder")
    vae_config = config(options.pack, "vae_decoder")

    class Unet:
        def __call__(self, sample, timestep, encoder_hidden_states=None, return_dict=False):
            feeds = {"sample": sample, "timestep": timestep.long(), "encoder_hidden_states": encoder_hidden_states}
            return (unet(**feeds).to(networks.dtype),)

    class Vae:
        dtype = networks.dtype
        config = types.SimpleNamespace(scaling_factor=vae_config.get("scaling_factor", 1.0))

        def encode(self, pictures):
            return types.SimpleNamespace(latents=encoder(**{pixels: pictures}).to(networks.dtype))

        def decode(self, values, return_dict=False):
            return (decoder(**{latents: values}).to(networks.dtype),)

    factor = vae_config.get("spatial_scale_factor") or 2 ** (len(vae_config["block_out_channels"]) - 1)
    scheduler = LCMScheduler.from_config(config_of_scheduler(options.pack))
    pipe = types.SimpleNamespace(
        device=torch.device("cpu"),
        vae_scale_factor=factor,
        scheduler=scheduler,
        text_encoder=None,
        unet=Unet(),
        vae=Vae(),
        encode_prompt=lambda **_: (tokens, tokens),
    )
    return pipe, networks.dtype


def config_of_scheduler(pack):
    values = json.loads((pack / "scheduler/scheduler_config.json").read_text())
    return {key: value for key, value in values.items() if not key.startswith("_")}


def pipe_of_torch(options, torch):
    from diffusers import StableDiffusionPipeline

    dtype = torch.bfloat16 if options.engine == "torch_bf16" else torch.float32
    pipe = StableDiffusionPipeline.from_pretrained(
        str(options.torch_model), torch_dtype=dtype, local_files_only=True, safety_checker=None, requires_safety_checker=False
    )
    return pipe, dtype


def widen(stream, channels, torch):
    """Gives a prepared stream latents of so many channels: version 0.1.1 makes its noise and its buffer with four, whatever the model has."""
    chance = torch.Generator().manual_seed(2)
    _, _, height, width = stream.init_noise.shape
    shape = (stream.batch_size, channels, height, width)
    stream.init_noise = torch.randn(shape, generator=chance).to(stream.init_noise)
    stream.stock_noise = torch.zeros_like(stream.init_noise)
    if stream.x_t_latent_buffer is not None:
        rows = len(stream.x_t_latent_buffer)
        stream.x_t_latent_buffer = torch.zeros((rows, channels, height, width)).to(stream.init_noise)


def main():
    options = arguments()
    import torch

    torch.set_num_threads(options.threads)
    without_gpu(torch)
    import diffusers
    import numpy
    import PIL.Image
    from streamdiffusion import StreamDiffusion
    from streamdiffusion.image_utils import postprocess_image

    diffusers.utils.logging.disable_progress_bar()
    whole = options.torch_model is not None and options.engine.startswith("torch")
    pipe, dtype = (pipe_of_torch if whole else pipe_of_pack)(options, torch)
    stream = StreamDiffusion(
        pipe, options.t_index, torch_dtype=dtype, width=options.width, height=options.height, cfg_type="self"
    )
    stream.prepare(options.prompt, "", num_inference_steps=50, guidance_scale=1.2, delta=1.0, seed=2)
    if not whole:
        widen(stream, config(options.pack, "unet")["in_channels"], torch)
    noise = numpy.random.default_rng(1)
    pictures = [
        PIL.Image.fromarray(noise.integers(0, 256, (options.height, options.width, 3), dtype=numpy.uint8))
        for _ in range(4)
    ]

    def repaint(frames):
        started = time.perf_counter()
        with torch.no_grad():
            for frame in range(frames):
                numpy.asarray(postprocess_image(stream(pictures[frame % 4]).float(), "pil")[0])
        return 1e3 * (time.perf_counter() - started) / frames

    repaint(1)
    versions = f"streamdiffusion 0.1.1, torch {torch.__version__}"
    if options.engine.startswith("openvino"):
        import openvino

        versions += f", openvino {openvino.__version__.split('-')[0]}"
    elif not whole:
        versions += ", graphs through onnx2torch"
    answer(ready=versions)
    for line in sys.stdin:
        answer(ms=repaint(int(line)))


try:
    main()
except Exception as error:
    answer(error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    sys.exit(1)
