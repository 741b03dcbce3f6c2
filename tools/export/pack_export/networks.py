"""The networks of a pack as modules with named tensors: names, ranks and order are Optimum's."""

import dataclasses

import torch

from . import attention, controlnet, prompt_kv

# Latents and pictures that a network is traced with; no size is kept in the graph. 16 can be halved by every U-Net here.
SIDE = 16


@dataclasses.dataclass
class Network:
    """A part of the pack."""

    folder: str
    module: torch.nn.Module
    outputs: list
    """Names of the outputs."""
    axes: dict
    """Of every tensor, the sides that a caller chooses."""
    example: callable
    """rows, height and width (of a latent) to inputs by name."""
    config: dict = None
    keeps_f32: bool = False
    """Whether it overflows in f16."""


class Unet(torch.nn.Module):
    """The U-Net, behind a ControlNet where there is one."""

    def __init__(self, unet, extras, control=None):
        super().__init__()
        self.unet, self.extras, self.controlnet = unet, extras, control

    def forward(self, sample, timestep, prompt, *extras):
        extras = dict(zip(self.extras, extras))
        added = {name: extras[name] for name in ("text_embeds", "time_ids") if name in extras} or None
        residuals = {}
        if self.controlnet is not None:
            picture, scale = extras["controlnet_cond"], extras["conditioning_scale"]
            residuals = controlnet.residuals(self.controlnet, sample, timestep, prompt, picture, scale, added)
        return self.unet(sample, timestep, encoder_hidden_states=prompt, timestep_cond=extras.get("timestep_cond"),
                         added_cond_kwargs=added, return_dict=False, **residuals)[0]


class Encoder(torch.nn.Module):
    def __init__(self, vae):
        super().__init__()
        self.vae, self.is_kl = vae, hasattr(vae, "quant_conv")

    def forward(self, sample):
        encoded = self.vae.encode(sample)
        return encoded.latent_dist.parameters if self.is_kl else encoded.latents


class Decoder(torch.nn.Module):
    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, latent_sample):
        return self.vae.decode(latent_sample, return_dict=False)[0]


class Text(torch.nn.Module):
    """A CLIP text encoder. SDXL takes the layer before the last of both of its encoders, hence `hidden_states`."""

    def __init__(self, encoder, outputs):
        super().__init__()
        self.encoder, self.outputs = encoder, outputs

    def forward(self, input_ids):
        given = self.encoder(input_ids, output_hidden_states=True)
        layers = {f"hidden_states.{number}": state for number, state in enumerate(given.hidden_states)}
        return tuple(layers[name] if name in layers else getattr(given, name) for name in self.outputs)


def all_of(pipe, control, options):
    """Every network that the options ask for, the U-Net (with the ControlNet, if any) last: it is the largest."""
    is_sdxl = getattr(pipe, "text_encoder_2", None) is not None
    made = [text(pipe.text_encoder, "text_encoder", is_sdxl)]
    if is_sdxl:
        made.append(text(pipe.text_encoder_2, "text_encoder_2", is_sdxl))
    made += vae(pipe.vae, is_sdxl)
    both = torch.nn.ModuleList([pipe.unet] if control is None else [pipe.unet, control])
    wide = pipe.unet.config.cross_attention_dim
    if options.attention == "fused":
        attention.fuse(both)
    if options.prompt_kv:
        made.append(prompt_kv_network(both, wide))
        wide = prompt_kv.use_ready_ones(both, attention.KINDS[options.attention])
        return made + [unet(pipe.unet, "prompt_kv", wide, control)]
    return made + [unet(pipe.unet, "encoder_hidden_states", wide, control)]


def unet(model, name, wide, control=None):
    """The U-Net, whose prompt has that name and width, and the ControlNet before it."""
    config = model.config
    if config.addition_embed_type == "text_time":
        # The sinusoids of the sizes come in f32, and ONNX joins only tensors of one type.
        for part in [model] if control is None else [model, control]:
            part.add_time_proj.register_forward_hook(lambda _, __, values: values.to(model.dtype))
    widths = {}
    if config.addition_embed_type == "text_time":
        sizes = 6 * config.addition_time_embed_dim
        widths = {"text_embeds": config.projection_class_embeddings_input_dim - sizes, "time_ids": 6}
    if config.time_cond_proj_dim is not None:
        widths["timestep_cond"] = config.time_cond_proj_dim

    def example(rows, height, width):
        inputs = {
            "sample": torch.randn(rows, config.in_channels, height, width),
            # Another time in every row: what the stream batch needs.
            "timestep": torch.linspace(999, 19, rows).round(),
            name: torch.randn(rows, prompt_kv.LENGTH, wide),
        }
        for extra, values in widths.items():
            inputs[extra] = torch.randn(rows, values)
        if "time_ids" in inputs:
            inputs["time_ids"] = torch.tensor([[8.0 * height, 8.0 * width, 0, 0, 8.0 * height, 8.0 * width]] * rows)
        return inputs if control is None else inputs | controlnet.example(rows, height, width)

    picture = {0: "batch_size", 2: "height", 3: "width"}
    axes = {"sample": picture, "timestep": {0: "batch_size"}, name: {0: "batch_size", 1: "sequence_length"}}
    axes |= {extra: {0: "batch_size"} for extra in widths} | {"out_sample": picture}
    extras = list(widths)
    if control is not None:
        axes |= controlnet.AXES
        extras += controlnet.AXES
    return Network("unet", Unet(model, extras, control), ["out_sample"], axes, example, dict(config))


def prompt_kv_network(model, wide):
    token = {0: "batch_size", 1: "sequence_length"}
    return Network("prompt_kv", prompt_kv.PromptKv(model), ["prompt_kv"], {"encoder_hidden_states": token, "prompt_kv": token},
                   lambda rows, _, __: {"encoder_hidden_states": torch.randn(rows, prompt_kv.LENGTH, wide)})


def vae(model, is_sdxl):
    # TAESD's config has other names; it halves three times, as Stable Diffusion's VAE does.
    factor = 2 ** (len(model.config.get("block_out_channels", [0] * 4)) - 1)
    channels = model.config.latent_channels
    latent = "latent_parameters" if hasattr(model, "quant_conv") else "latent_sample"
    picture = {0: "batch_size", 2: "height", 3: "width"}
    small = {0: "batch_size", 2: "latent_height", 3: "latent_width"}
    # SDXL's overflows in f16. The config says so of the others too, as that is the default; diffusers asks SDXL's alone.
    overflows = is_sdxl and hasattr(model, "quant_conv") and bool(model.config.get("force_upcast"))

    def pictures(rows, height, width):
        return {"sample": torch.rand(rows, 3, factor * height, factor * width) * 2 - 1}

    def latents(rows, height, width):
        return {"latent_sample": torch.randn(rows, channels, height, width)}

    config = dict(model.config)
    return [
        Network("vae_encoder", Encoder(model), [latent], {"sample": picture, latent: small}, pictures, config, overflows),
        Network("vae_decoder", Decoder(model), ["sample"], {"latent_sample": small, "sample": picture}, latents, config, overflows),
    ]


def text(encoder, folder, is_sdxl):
    config = encoder.config
    # PyTorch's own attention is exported with a causal mask in f32, which a graph in f16 cannot add.
    encoder.set_attn_implementation("eager")
    has_projection = type(encoder).__name__.endswith("WithProjection")
    outputs = ["text_embeds", "last_hidden_state"] if has_projection else ["last_hidden_state", "pooler_output"]
    if is_sdxl:
        outputs.append(f"hidden_states.{config.num_hidden_layers - 1}")
    token = {0: "batch_size", 1: "sequence_length"}
    axes = {"input_ids": token} | {name: {0: "batch_size"} if name in ("text_embeds", "pooler_output") else token for name in outputs}

    def example(rows, height, width):
        length = config.max_position_embeddings
        ids = torch.randint(1, max(config.vocab_size - 2, 2), (rows, length))
        ids[:, 0] = config.bos_token_id
        # Prompts of several lengths, from two words on.
        for row in range(rows):
            ids[row, 3 + 7 * row :] = config.eos_token_id
        return {"input_ids": ids}

    return Network(folder, Text(encoder, outputs), outputs, axes, example, config.to_dict())
