#!/usr/bin/env python3
"""Writes a model repository for triton.sh with the U-Net of a pack in the diffusers ONNX layout.

    repository.py PACK OUT [--name unet] [--max-batch 8] [--half] [--threads 1] [--queue-us 1000] [--delay-ms 0]

OUT/NAME/config.pbtxt is what Triton's ONNX Runtime backend would make of PACK/unet/model.onnx by itself: names, types and sides are the
graph's. With --max-batch above 0 the first side, the rows, is Triton's and is left out; a graph's [rows] is then [1] for each row, which a
client sends as [rows, 1], since Triton knows no tensor without sides. With 0 all sides are the graph's, and requests are not put
together."""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
TRITON = {
    "tensor(float)": "TYPE_FP32",
    "tensor(float16)": "TYPE_FP16",
    "tensor(double)": "TYPE_FP64",
    "tensor(int64)": "TYPE_INT64",
    "tensor(int32)": "TYPE_INT32",
}
# What the server's own Python is asked, which has ONNX Runtime. Sides without a number are -1.
SIGNATURE = """
import json, sys, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
sides = lambda node: [side if isinstance(side, int) else -1 for side in node.shape]
print(json.dumps([[(node.name, node.type, sides(node)) for node in nodes] for nodes in (session.get_inputs(), session.get_outputs())]))
"""


def signature(graph):
    """(inputs, outputs) of an ONNX graph, each (name, type, sides)."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    cache = os.environ.get("LIVEDIFFUSION_CACHE") or f"{cache}/livediffusion"
    version = re.search(r"^nvidia-pytriton==([0-9.]+)", (HERE / "triton.txt").read_text(), re.MULTILINE)[1]
    packages = pathlib.Path(cache, f"triton-{version}", "pytriton/tritonserver/backends/python")
    if not packages.is_dir():
        sys.exit(f"error: there is no {packages}\nhint: tools/remote/setup.sh")
    command = ["/usr/bin/python3.11", "-c", SIGNATURE, str(graph)]
    asked = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(packages)}, stdout=subprocess.PIPE, check=True)
    return json.loads(asked.stdout)


def declaration(node, batches, half):
    name, kind, sides = node
    kind = TRITON[kind]
    if half and kind in ("TYPE_FP32", "TYPE_FP64"):
        kind = "TYPE_FP16"
    reshape = ""
    if batches:
        if sides[:1] != [-1]:
            sys.exit(f"error: {name} has the sides {sides}: the first is no open number of rows\nhint: --max-batch 0")
        sides = sides[1:]
        if not sides:
            sides, reshape = [1], " reshape { shape: [ ] }"
    return f'  {{ name: "{name}" data_type: {kind} dims: {sides}{reshape} }}'


def main():
    parser = argparse.ArgumentParser(description="Writes a model repository for triton.sh with the U-Net of a pack.")
    parser.add_argument("pack", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--name", default="unet")
    parser.add_argument("--max-batch", type=int, default=8, help="the rows of one run; 0: requests are not put together")
    parser.add_argument("--half", action="store_true", help="the wire carries FP16 where the graph has FP32")
    parser.add_argument("--threads", type=int, default=1, help="that ONNX Runtime computes on")
    parser.add_argument("--queue-us", type=int, default=1000, help="how long a request waits for others")
    parser.add_argument("--delay-ms", type=float, default=0, help="what each run takes longer, to test clients with a slow server")
    args = parser.parse_args()

    graph = (args.pack / "unet" / "model.onnx").resolve()
    if not graph.is_file():
        sys.exit(f"error: there is no {graph}\nhint: PACK is a folder in the diffusers ONNX layout")
    batches = args.max_batch > 0
    inputs, outputs = ([declaration(node, batches, args.half) for node in nodes] for nodes in signature(graph))
    parameters = {"onnx": graph, "threads": args.threads, "delay_ms": args.delay_ms}
    lines = [f'name: "{args.name}"', 'backend: "python"', f"max_batch_size: {args.max_batch}"]
    if batches:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {args.queue_us} }}")
    lines += ["input [", ",\n".join(inputs), "]", "output [", ",\n".join(outputs), "]", "instance_group { kind: KIND_CPU count: 1 }"]
    lines += [f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in parameters.items()]

    model = args.out / args.name
    (model / "1").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(HERE / "model.py", model / "1" / "model.py")
    (model / "config.pbtxt").write_text("\n".join(lines) + "\n")


main()
