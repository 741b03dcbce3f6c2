#!/bin/sh
# Makes the Python environment of `tools/export`: CACHE/export, about 2 GB. Says nothing when it is there.
set -eu
here=$(dirname "$0")
cache=${LIVEDIFFUSION_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/livediffusion}
target=$cache/export
# Another list of packages is another environment.
ready=$target/ready-$(cat "$here/requirements.txt" "$here/../setup/torch.sh" | cksum | cut -d' ' -f1)
[ ! -e "$ready" ] || exit 0

echo "setting up the Python environment of the exporter: about 2 GB in $target" >&2
mkdir -p "$cache"
"$here/../setup/torch.sh" "$target"
"$target/bin/python" -m pip --quiet --disable-pip-version-check install --requirement "$here/requirements.txt"
try='import torch, diffusers, transformers, peft, onnx, onnxruntime'
"$target/bin/python" -c "$try" >/dev/null 2>&1 || {
    echo "error: the Python environment in $target does not work" >&2
    echo "hint: $target/bin/python -c '$try' says why" >&2
    exit 1
}
touch "$ready"
