#!/bin/sh
# Completes the Python environment of `tools/export` with what training and measuring a pack need. Says nothing when it is there.
set -eu
here=$(dirname "$0")
cache=${LIVEDIFFUSION_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/livediffusion}
"$here/../export/setup.sh"
target=$cache/export
ready=$target/ready-train-$(cksum <"$here/requirements.txt" | cut -d' ' -f1)
[ ! -e "$ready" ] || exit 0
"$target/bin/python" -m pip --quiet --disable-pip-version-check install --requirement "$here/requirements.txt"
touch "$ready"
