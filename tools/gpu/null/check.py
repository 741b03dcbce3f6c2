#!/usr/bin/env python3
"""Reads what a stream asked of a CUDA that does nothing, and tells whether a frame is as it should be.

    check.py TRACE --frame BYTES [--picture BYTES] [--graphs N] [--engines N] [--streams N] [--allow CALL]...

Looked at is what lies between the uploads of two frames, once everything is warm: one copy of a frame to the card, one of a picture
and of its flag from it, each way in a stream of its own, all else in one stream (or as many as told), nothing waited for but a picture, nothing allocated, and nothing of
ONNX Runtime's copied. With --graphs each network is one launch of a graph, with --engines one of TensorRT's engines.
"""

import argparse
import collections
import itertools
import sys

# Frames alike, one after the other, that count as a steady stream: `bench gpu` changes rows and settings before and after it.
STEADY = 8
OURS = ("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuEventSynchronize")
WAYS = ("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync")
# ONNX Runtime's, within the card.
WITHIN = ("cudaMemcpyAsync(within)", "cudaMemsetAsync", "launch", "cudaGraphLaunch", "tensorrt_run")
# What only tells a library where to work, or describes a tensor.
QUIET = ("Set", "Get", "Create", "Destroy", "Descriptor", "Attribute", "Finalize", "Derive", "Config", "Error", "cudaEventRecord", "Init")


def lines(path: str) -> list[tuple[str, int, str]]:
    with open(path) as file:
        split = [line.split() for line in file]
    return [(words[0], int(words[1]), words[2]) for words in split if len(words) == 3]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("trace")
    parser.add_argument("--frame", type=int, required=True)
    # As large as the frame, unless what a ControlNet is shown goes up with that.
    parser.add_argument("--picture", type=int)
    parser.add_argument("--graphs", type=int)
    parser.add_argument("--engines", type=int)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--allow", action="append", default=[])
    asked = parser.parse_args()
    all_lines = lines(asked.trace)
    uploads = [at for at, (call, size, _) in enumerate(all_lines) if (call, size) == ("cuMemcpyHtoDAsync", asked.frame)]
    frames = [all_lines[begin:end] for begin, end in zip(uploads, uploads[1:])]
    counts = [collections.Counter(call for call, _, _ in frame) for frame in frames]
    # New rows and prompts are uploads of their own; before that nothing tells frames of engines apart.
    work = ("launch", "cudaGraphLaunch", "tensorrt_run", "cuMemcpyHtoDAsync")
    alike = [[*group] for _, group in itertools.groupby(range(len(frames)), key=lambda at: [counts[at][call] for call in work])]
    # A frame in the middle of them: the first may be the last of what was before.
    steady = max(alike, key=len, default=[])
    if len(steady) < STEADY:
        print(f"error: of {len(frames)} frames on the card no {STEADY} in a row were alike", file=sys.stderr)
        return 1
    wrong = []
    for at in steady[2:-2]:
        frame, count = frames[at], counts[at]
        up = [size for call, size, _ in frame if call == "cuMemcpyHtoDAsync"]
        down = [size for call, size, _ in frame if call == "cuMemcpyDtoHAsync"]
        if up != [asked.frame] or sorted(down) != [4, asked.picture or asked.frame]:
            wrong.append(f"copies of {up} bytes to the card and {down} from it")
        work = {stream for call, _, stream in frame if call in WITHIN or "_" in call and call.islower()}
        if len(work) != asked.streams:
            wrong.append(f"work in {len(work)} streams: {sorted(work)}")
        # Beside the work of other frames: in its streams they would take turns with it.
        ways = [{stream for call, _, stream in frame if call == way} for way in WAYS]
        if any(len(way) != 1 for way in ways) or ways[0] & ways[1] or any(way & work for way in ways):
            wrong.append(f"copies to the card in {sorted(ways[0])}, from it in {sorted(ways[1])}, and work in {sorted(work)}")
        for call in sorted(count):
            ours = call in OURS or call == "cuMemcpyDtoDAsync" or not call.startswith("cu")
            known = ours or call in WITHIN or call in asked.allow or any(part in call for part in QUIET) or call.startswith(("cublas", "cudnn"))
            if not known:
                wrong.append(f"{count[call]} × {call}")
        if asked.graphs is not None and (count["cudaGraphLaunch"], count["launch"]) != (asked.graphs, 0):
            wrong.append(f"{count['cudaGraphLaunch']} graphs and {count['launch']} launches beside them")
        if asked.engines is not None and (count["tensorrt_run"], count["launch"]) != (asked.engines, 0):
            wrong.append(f"{count['tensorrt_run']} engines and {count['launch']} launches beside them")
    if any(call == "cudnn_uneven_padding" for call, _, _ in all_lines):
        wrong.append("or before it, a convolution whose border is wider on one side")
    kernels = sum(n for call, n in count.items() if call == "launch" or "_" in call and call.islower() and call not in WITHIN)
    engines = f"{count['tensorrt_run']} engines, " if count["tensorrt_run"] else ""
    print(f"a frame: {kernels} kernels, {count['cudaGraphLaunch']} graphs, {engines}{len(up)} copy to the card, {len(down)} from it")
    for what in dict.fromkeys(wrong):
        print(f"error: in a frame: {what}", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
