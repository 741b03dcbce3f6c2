#!/bin/sh
# Makes a Python environment with the CPU build of torch: torch.sh FOLDER.
set -eu
here=$(dirname "$0")
target=$1

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
