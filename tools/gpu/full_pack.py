"""Makes a model pack of a full-size SD-Turbo with random weights: full_pack.py PACK. --help lists the options.

The architecture and its cost are SD-Turbo's; its pictures are noise. It needs torch, transformers, onnx, safetensors and
diffusers, about 12 GB of memory, and no network.
"""

import argparse
import pathlib
import sys
import tempfile

EXPORT = pathlib.Path(__file__).resolve().parents[1] / "export"
sys.path[:0] = [str(EXPORT), str(EXPORT / "tests")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=pathlib.Path)
    parser.add_argument("--vae", choices=["kl", "taesd"], default="taesd")
    parser.add_argument("--dtype", choices=["f16", "f32"], default="f16")
    parser.add_argument("--attention", choices=["plain", "fused"], default="fused", help="fused is one operator of CUDA and the CPU")
    parser.add_argument("--tiny", action="store_true", help="a tiny one of the same shape, for a try")
    asked = parser.parse_args()

    import tiny
    from pack_export import load, networks, options, pack

    def pipeline(_):
        made = tiny.sd_turbo() if asked.tiny else tiny.full_sd_turbo()
        if asked.vae == "taesd":
            made.vae = tiny.taesd(channels=16 if asked.tiny else 64)
        return made

    # The model is never written as PyTorch has it: 5 GB less to write and to read.
    load.pipeline = pipeline
    # A CPU without arithmetic in f16 takes most of the time for what graphs are traced with, and a machine is waiting. They are the same.
    networks.SIDE = 8
    with tempfile.TemporaryDirectory() as work:
        model = pathlib.Path(work, "sd-turbo-random")
        model.mkdir()
        pack.make(options.parse(["--model", str(model), "--out", str(asked.pack), "--dtype", asked.dtype, "--attention", asked.attention,
                                 "--family", "turbo", "--title", "SD-Turbo's architecture, random weights", "--no-check", "--force"]))


if __name__ == "__main__":
    main()
