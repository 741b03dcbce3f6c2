"""From photographs to a pack, one stage after the other; a stage that is done is not done again.

    python -m pack_train --work DIR --out models/default
"""

import argparse
import os
from pathlib import Path

import torch

from . import pack, photos, text, tuples, unet, unpack, vae, vocabulary

MINUTES = {"vae": 4.0, "text": 4.0, "unet": 356.0}
"""On two cores. The autoencoder begins near its best and needs no more; the U-Net of the default pack gained a decibel after the first hundred."""
TUPLES = 720
"""Crops, each in every style: 4 GB. More of them bring less than longer training does."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pack_train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for photographs, tuples and checkpoints: 6 GB")
    parser.add_argument("--out", type=Path, help="folder of the pack; without it only the training is done")
    parser.add_argument("--data", type=Path, help="photographs, if they are elsewhere than WORK/data")
    parser.add_argument("--tuples", type=int, default=TUPLES, help="crops, each in every style (default: %(default)s)")
    parser.add_argument("--vae-minutes", type=float, default=MINUTES["vae"], help="of training in all (default: %(default)s)")
    parser.add_argument("--text-minutes", type=float, default=MINUTES["text"], help="of training (default: %(default)s)")
    parser.add_argument("--unet-minutes", type=float, default=MINUTES["unet"], help="of training in all (default: %(default)s)")
    parser.add_argument("--from", dest="start", type=Path, metavar="PACK", help="go on from a pack's weights for the last 3 in 10 of the minutes")
    parser.add_argument("--until", choices=("tuples", "text", "vae", "unet"), help="stop after this stage")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is drawn (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="(default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    torch.set_num_threads(asked.threads)
    work: Path = asked.work
    work.mkdir(parents=True, exist_ok=True)
    data = asked.data or work / "data"
    if not asked.data:
        photos.fetch(data)
    made = {name: work / name for name in ("tuples.npy", "vocabulary.npz", "text.pt", "vae.pt", "unet.pt")}
    if not made["vocabulary.npz"].exists():
        vocabulary.make(data / "sentences", made["vocabulary.npz"])
    if not made["tuples.npy"].exists():
        tuples.make(data, made["tuples.npy"], asked.tuples, asked.seed, asked.threads)
    if asked.until == "tuples":
        return
    if asked.start and not made["unet.pt"].exists():
        minutes = {"vae": asked.vae_minutes, "unet": asked.unet_minutes}
        unpack.write(asked.start, made["vocabulary.npz"], made["text.pt"], made["vae.pt"], made["unet.pt"], minutes, asked.seed)
    if not made["text.pt"].exists():
        text.train(data, made["vocabulary.npz"], made["text.pt"], asked.seed, asked.text_minutes)
    if asked.until == "text":
        return
    vae.train(made["tuples.npy"], made["vae.pt"], asked.vae_minutes, asked.seed)
    vae.report(made["tuples.npy"], made["vae.pt"])
    if asked.until == "vae":
        return
    unet.train(*made.values(), asked.unet_minutes, asked.seed)
    if asked.until != "unet" and asked.out:
        pack.write(made["vocabulary.npz"], made["vae.pt"], made["unet.pt"], asked.out)


if __name__ == "__main__":
    main()
