"""A pack as a stream: StreamDiffusion's image-to-image loop, frame by frame, with NumPy and ONNX Runtime alone.

The noise is fixed per step, as the engine's is, so that a still scene stays still.
"""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

STEPS = 1000
"""Of the schedule that the networks were trained on."""


@dataclass(frozen=True)
class TIndex:
    """Which denoising steps a frame goes through: indices (t_index_list) into a table of so many times (num_inference_steps)."""

    indices: tuple[int, ...]
    steps: int = 50

    @classmethod
    def parse(cls, text: str) -> "TIndex":
        """`47,49`, or with another table than that of 50 times `94,98@100`."""
        indices, _, steps = text.partition("@")
        return cls(tuple(int(part) for part in indices.split(",")), int(steps or 50))

    def __str__(self) -> str:
        return ",".join(map(str, self.indices)) + (f"@{self.steps}" if self.steps != 50 else "")


class Stream:
    def __init__(self, pack: Path, threads: int, seed: int = 2) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.seed = seed

        def network(part: str) -> onnxruntime.InferenceSession:
            return onnxruntime.InferenceSession(str(pack / part / "model.onnx"), options, providers=["CPUExecutionProvider"])

        self.encoder, self.decoder = network("vae_encoder"), network("vae_decoder")
        self.unet, self.text = network("unet"), network("text_encoder")
        self.tokenizer = Tokenizer.from_file(str(pack / "tokenizer/tokenizer.json"))
        vae = json.loads((pack / "vae_decoder/config.json").read_text())
        self.scale, self.shift = float(vae["scaling_factor"]), float(vae.get("shift_factor") or 0)
        schedule = json.loads((pack / "scheduler/scheduler_config.json").read_text())
        betas = np.linspace(schedule["beta_start"] ** 0.5, schedule["beta_end"] ** 0.5, STEPS) ** 2
        self.alphas = np.cumprod(1 - betas)
        self.original_steps = int(schedule["original_inference_steps"])
        self.timestep_scaling = float(schedule["timestep_scaling"])
        told = pack / "pack.toml"
        defaults = tomllib.loads(told.read_text()).get("defaults", {}) if told.exists() else {}
        self.add_noise = bool(defaults.get("add-noise", True))
        """Whether later steps get noise again (do_add_noise)."""
        self.contexts: dict[str, np.ndarray] = {}

    def context(self, prompt: str) -> np.ndarray:
        if prompt not in self.contexts:
            ids = np.array([self.tokenizer.encode(prompt).ids], np.int64)
            (self.contexts[prompt],) = self.text.run(None, {"input_ids": ids})
        return self.contexts[prompt]

    def times(self, at: TIndex) -> list[int]:
        """LCM's: of the times that the model was distilled on, so many, evenly; index 0 is all noise."""
        if not 0 < at.steps <= self.original_steps or not all(0 <= index < at.steps for index in at.indices):
            raise SystemExit(f"error: {at} is not in a table of up to {self.original_steps} times\nhint: original_inference_steps of the pack bounds it")
        spacing = STEPS // self.original_steps
        return [spacing * (self.original_steps - index * self.original_steps // at.steps) - 1 for index in at.indices]

    def noise(self, shape: tuple[int, ...], step: int) -> np.ndarray:
        return np.random.default_rng([self.seed, step]).standard_normal(shape[1:]).astype(np.float32)[None]

    def predicted(self, x: np.ndarray, timestep: int, context: np.ndarray) -> np.ndarray:
        inputs = {
            "sample": x.astype(np.float32),
            "timestep": np.full(len(x), timestep, np.int64),
            "encoder_hidden_states": np.repeat(context, len(x), 0),
        }
        return self.unet.run(None, inputs)[0]

    def encode(self, pictures: np.ndarray) -> np.ndarray:
        """`uint8[B, H, W, 3]` to latents."""
        x = np.ascontiguousarray(pictures.astype(np.float32).transpose(0, 3, 1, 2)) / 127.5 - 1
        return (self.encoder.run(None, {"sample": x})[0] - self.shift) * self.scale

    def decode(self, latents: np.ndarray) -> np.ndarray:
        y = self.decoder.run(None, {"latent_sample": (latents / self.scale + self.shift).astype(np.float32)})[0]
        return np.clip((y.transpose(0, 2, 3, 1) + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)

    def repaint(self, pictures: np.ndarray, prompt: str, at: TIndex, guidance: float = 1.0, negative: str | None = None) -> np.ndarray:
        """`uint8[B, H, W, 3]` repainted.

        Guidance above 1 is R-CFG "self" (the unconditional prediction is the noise that leads to the frame itself), or with a
        negative prompt the full one.
        """
        source = self.encode(pictures)
        context = self.context(prompt)
        clean = source
        for step, t in enumerate(self.times(at)):
            signal, noise = np.sqrt(self.alphas[t]), np.sqrt(1 - self.alphas[t])
            x = signal * clean
            if step == 0 or self.add_noise:
                x = x + noise * self.noise(source.shape, step)
            predicted = self.predicted(x, t, context)
            if guidance != 1:
                if negative is None:
                    without = (x - signal * source) / noise
                else:
                    without = self.predicted(x, t, self.context(negative))
                predicted = without + guidance * (predicted - without)
            clean = (x - noise * predicted) / signal
            # LCM's boundary condition, all but 1 and 0 at these steps.
            scaled = t * self.timestep_scaling
            skip, out = 0.25 / (scaled**2 + 0.25), scaled / np.sqrt(scaled**2 + 0.25)
            clean = out * clean + skip * x
        return self.decode(clean)
