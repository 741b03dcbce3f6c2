"""Writes pipeline/tests/data/canny.safetensors: small pictures, and the edges that OpenCV finds in them.

    python -m venv /tmp/canny && /tmp/canny/bin/pip install opencv-python-headless==5.0.0.93 safetensors numpy
    /tmp/canny/bin/python tools/goldens/canny.py

`NAME` is a picture, [height, width, 3] in RGB; `NAME/LOW-HIGH` what `cv2.Canny` makes of it under these thresholds, [height, width].
"""

import pathlib

import cv2
import numpy
from safetensors.numpy import save_file

ROOT = pathlib.Path(__file__).parents[2]
THRESHOLDS = [(100, 200), (40, 90), (0, 0), (300, 150), (500, 900), (1000, 1500)]


def pictures():
    random = numpy.random.default_rng(7)
    clip = cv2.VideoCapture(str(ROOT / "assets/bigbuckbunny.mp4"))
    clip.set(cv2.CAP_PROP_POS_FRAMES, 60)
    frame = cv2.cvtColor(clip.read()[1], cv2.COLOR_BGR2RGB)
    made = {"frame": cv2.resize(frame, (96, 64), interpolation=cv2.INTER_AREA)}
    made["noise"] = random.integers(0, 256, (17, 33, 3), dtype=numpy.uint8)
    shapes = numpy.zeros((48, 64, 3), numpy.uint8)
    # Colours of one lightness, whose edges a grey picture would not have.
    cv2.circle(shapes, (20, 24), 14, (200, 0, 0), -1)
    cv2.circle(shapes, (34, 24), 14, (0, 102, 0), -1)
    cv2.line(shapes, (5, 44), (60, 3), (90, 90, 255), 3, cv2.LINE_AA)
    made["shapes"] = shapes
    ramp = numpy.linspace(0, 255, 40).astype(numpy.uint8)
    made["ramp"] = numpy.stack([numpy.tile(ramp, (9, 1)), numpy.tile(ramp[::-1], (9, 1)), numpy.full((9, 40), 7, numpy.uint8)], -1)
    for name, sides in {"row": (1, 9), "column": (8, 1), "pixel": (1, 1)}.items():
        made[name] = random.integers(0, 256, (*sides, 3), dtype=numpy.uint8)
    return made


tensors = {}
for name, picture in pictures().items():
    tensors[name] = numpy.ascontiguousarray(picture)
    for low, high in THRESHOLDS:
        tensors[f"{name}/{low}-{high}"] = cv2.Canny(tensors[name], low, high)
save_file(tensors, ROOT / "pipeline/tests/data/canny.safetensors", {"opencv": cv2.__version__})
