#!/usr/bin/env python3
"""Cuts recorded cases of the Python reference down to what `livediffusion replay` reads.

    trim.py FROM/cases TO/cases NAME...

A case keeps its first frames only, as many as fill the stream batch and a few more, and of those only the tensors that
are compared or fed in. `reference_bug` moves from FROM/index.json into the case itself, so that a case is complete by
itself. Needs numpy and safetensors.
"""

import json
import re
import sys
from pathlib import Path

from safetensors.numpy import load_file, save_file

# Constants that the replay reads.
CONSTANTS = {
    "init_noise",
    "sub_timesteps_list",
    "c_skip",
    "c_out",
    "alpha_prod_t_sqrt",
    "beta_prod_t_sqrt",
    "prompt_embeds",
    "negative_prompt_embeds",
    "updated_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
    "time_ids",
}
PER_FRAME = re.compile(r"f(\d\d)/(.*)")
ALWAYS_READ = re.compile(r"x0_latent|latent_out|unet\d+/(sample|timestep|out)|draw\d+_(randn|randn_like|randn_gen)")


def frames_kept(case):
    """How many frames of a case its replay needs to show everything."""
    config = case["config"]
    if case.get("filter"):
        return config["frames"]  # the decisions depend on every picture before
    steps = len(config["t_index_list"])
    # The batch is full at the call `steps - 1`; one frame more sees its predecessors in it.
    frames = max(steps + 1, 3)
    if config["update_prompt"]:
        # The new prompt has to reach the frames that were under way and one that began under it.
        frames = config["update_prompt"]["frame"] + steps
    return min(frames, config["frames"])


def pictures_kept(case, frames):
    """The frames whose pictures are compared: pictures are most of a case, and latents are compared for all."""
    if "reference_bug" in case:
        return []
    skipped = [record["frame"] for record in case.get("filter", []) if not record["processed"]]
    processed = [frame for frame in range(frames) if frame not in skipped]
    shown = processed[len(case["config"]["t_index_list"]) - 1 :] if case["config"]["use_denoising_batch"] else processed
    if skipped and len(case["config"]["t_index_list"]) == 1:
        return sorted({shown[0], skipped[0], skipped[-1], shown[-1]})
    return [shown[-1]]


def is_read(key, case, frames):
    """Whether the replay of a case, cut to so many frames, reads a tensor."""
    if key == "input/frames_u8":
        return True
    if key.startswith("const/"):
        return key.removeprefix("const/") in CONSTANTS
    frame, what = PER_FRAME.fullmatch(key).groups()
    frame, config = int(frame), case["config"]
    if frame >= frames:
        return False
    if what == "x_t_latent":  # read by the emulation of a defect only
        return "reference_bug" in case
    if what == "image_u8":
        return frame in case["pictures"]
    return ALWAYS_READ.fullmatch(what) is not None


def trim(source, target, name, bugs):
    """Writes one case, cut, and returns its size in bytes."""
    case = json.loads((source / f"{name}.json").read_text())
    tensors = load_file(source / f"{name}.safetensors")
    if bugs.get(name):
        case["reference_bug"] = bugs[name]
    frames = frames_kept(case)
    case["pictures"] = pictures_kept(case, frames)
    kept = {key: value for key, value in tensors.items() if is_read(key, case, frames)}
    if "input/frames_u8" in kept:
        kept["input/frames_u8"] = kept["input/frames_u8"][: frames * case["config"]["frame_buffer_size"]].copy()
    case["config"]["frames"] = frames
    if "filter" in case:
        case["filter"] = [record for record in case["filter"] if record["frame"] < frames]
    del case["tensors"]  # the safetensors file says it
    save_file(kept, target / f"{name}.safetensors")
    (target / f"{name}.json").write_text(json.dumps(case, indent=1) + "\n")
    return sum((target / f"{name}{end}").stat().st_size for end in (".json", ".safetensors"))


def main():
    source, target, names = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    index = json.loads((source.parent / "index.json").read_text())
    bugs = {entry["name"]: entry.get("reference_bug") for entry in index}
    target.mkdir(parents=True, exist_ok=True)
    total = 0
    for name in names:
        size = trim(source, target, name, bugs)
        total += size
        print(f"{size:>9}  {name}")
    print(f"{total:>9}  in all")


if __name__ == "__main__":
    main()
