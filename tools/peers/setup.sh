#!/bin/sh
# Makes the Python environment of `livediffusion bench compare`: CACHE/peers, about 2 GB.
# Says nothing when it is there. torch is the CPU build; StreamDiffusion is installed without its own list of needs, which
# asks for a GPU's.
set -eu
here=$(dirname "$0")
cache=${LIVEDIFFUSION_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/livediffusion}
target=$cache/peers
[ ! -e "$target/ready" ] || exit 0

mkdir -p "$cache"
rm -rf "$target"
python3 -m venv "$target"
pip() {
    "$target/bin/python" -m pip --quiet --disable-pip-version-check "$@"
}
# The index of CPU builds may be out of reach; the ordinary one has a torch that links to CUDA libraries. Without its
# needs it is as large as the CPU build, and empty stand-ins let it load.
if ! pip install --index-url https://download.pytorch.org/whl/cpu torch==2.15.0 torchvision==0.29.2 2>/dev/null; then
    pip install --no-deps torch==2.15.0 torchvision==0.29.2
    # Otherwise the next installation would complete it with gigabytes of CUDA.
    metadata=$(echo "$target"/lib/python3*/site-packages/torch-*.dist-info/METADATA)
    sed -i -E '/^Requires-Dist: (cuda|nvidia|triton)/d' "$metadata"
    "$target/bin/python" "$here/stand_ins.py" "$target"
fi
pip install --requirement "$here/requirements.txt"
pip install --no-deps streamdiffusion==0.1.1
"$target/bin/python" -c 'import torch, onnx2torch, openvino, streamdiffusion' >/dev/null 2>&1 || {
    echo "error: the Python environment in $target does not work" >&2
    echo "hint: $target/bin/python -c 'import torch, onnx2torch, openvino, streamdiffusion' says why" >&2
    exit 1
}
touch "$target/ready"
