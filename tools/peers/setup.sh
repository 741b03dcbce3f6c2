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
"$here/../setup/torch.sh" "$target"
pip() {
    "$target/bin/python" -m pip --quiet --disable-pip-version-check "$@"
}
pip install --requirement "$here/requirements.txt"
pip install --no-deps streamdiffusion==0.1.1
"$target/bin/python" -c 'import torch, onnx2torch, openvino, streamdiffusion' >/dev/null 2>&1 || {
    echo "error: the Python environment in $target does not work" >&2
    echo "hint: $target/bin/python -c 'import torch, onnx2torch, openvino, streamdiffusion' says why" >&2
    exit 1
}
touch "$target/ready"
