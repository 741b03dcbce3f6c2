#!/usr/bin/env python3
"""Makes `onnx/tests/data/control`: a U-Net with a ControlNet in its graph, and what diffusers gives for it.

    ~/.cache/livediffusion/export/bin/python tools/goldens/control.py

The graph is the exporter's own (tools/export), of models like those of its tests, smaller still. The reference is PyTorch's:
each row by itself, the two networks called as StableDiffusionControlNetPipeline calls them. `control` has the pictures as bytes
[rows, height, width, 3], `controlnet_cond` the same as the graph takes them. The rest of the pack, which is there already, are
links to tiny-sd15. Needs the environment of tools/export (tools/export/setup.sh); with the same versions in it, the same bytes
come out every time.
"""

import pathlib
import sys
import tempfile
import warnings

warnings.filterwarnings("ignore")
ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools/export"), str(ROOT / "tools/export/tests")]

import numpy  # noqa: E402
import tiny  # noqa: E402
import torch  # noqa: E402
from diffusers import UNet2DConditionModel  # noqa: E402
from reference import assert_close, load_control, predicted_with, run, unet_inputs  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

from pack_export import companions, graph, networks  # noqa: E402

TARGET = ROOT / "onnx/tests/data/control"
# So few channels that the graph is mostly nodes. One for each group would lose the time: normalisation takes away what is the
# same for all values of a group.
LEVELS, GROUPS = (4, 8, 12), 2
PROMPT, SIDE = 32, 8
TIMES, SCALES = (999.0, 499.0, 19.0), (1.0, 0.5, 0.0)


def save_models(folder):
    unet = tiny.unet(31, PROMPT, levels=LEVELS, norm_num_groups=GROUPS, attention_head_dim=4)
    unet.save_pretrained(folder / "unet")
    tiny.controlnet(unet, 32).save_pretrained(folder / "controlnet")


def load_models(folder):
    return UNet2DConditionModel.from_pretrained(folder / "unet").eval(), load_control(folder / "controlnet")


def pictures(seed=33):
    """Areas of any colour with a line through them, for every row."""
    random = numpy.random.default_rng(seed)
    made = random.integers(0, 256, (len(TIMES), SIDE, SIDE, 3), dtype=numpy.uint8).repeat(8, axis=1).repeat(8, axis=2)
    made[:, ::8] = 255 - made[:, ::8]
    return made


def write(unet, control):
    """The graph and its config, as the exporter writes them."""
    network = networks.unet(unet, "encoder_hidden_states", PROMPT, control)
    graph.save(graph.export(network, torch.float32), TARGET / "unet/model.onnx")
    companions.write_json(TARGET / "unet/config.json", companions.plain(network.config))


def assert_right(unet, control, inputs, extra, want):
    """The graph gives the reference, and nothing could be left out of it without being seen."""
    assert_close(run(TARGET, "unet", **inputs)["out_sample"], want, 1e-4)
    turned = {name: inputs[name].flip(0) for name in ("timestep", "controlnet_cond", "encoder_hidden_states")}
    for name, other in (turned | {"conditioning_scale": torch.zeros(len(SCALES))}).items():
        changed = (predicted_with(control, unet, inputs | {name: other}, extra) - want)[0].abs().max() / want.abs().max()
        print(f"{name} changes the first row by {changed:.0%} of the peak")
        assert changed > 0.1, name


def main():
    # Sums of several threads differ in their last bits.
    torch.set_num_threads(1)
    shown = pictures()
    with tempfile.TemporaryDirectory() as work:
        folder = pathlib.Path(work)
        save_models(folder)
        unet, control = load_models(folder)
        write(*load_models(folder))
    inputs, extra = unet_inputs(unet, TIMES, SIDE, SIDE, seed=34)
    inputs["controlnet_cond"] = torch.from_numpy(shown).permute(0, 3, 1, 2).contiguous().to(torch.float32) / 255
    inputs["conditioning_scale"] = torch.tensor(SCALES)
    want = predicted_with(control, unet, inputs, extra)
    tensors = {name: value.numpy() for name, value in (inputs | {"out_sample": want}).items()}
    save_file(tensors | {"control": shown}, TARGET / "reference.safetensors")
    assert_right(unet, control, inputs, extra, want)
    for path in sorted(path for path in TARGET.rglob("*") if path.is_file()):
        print(f"{path.stat().st_size:>9}  {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
