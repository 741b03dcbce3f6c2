#!/bin/sh
# Measures a pack on pictures that it was not trained on: quality.sh --model models/default. --help lists the options. Sets up its
# Python environment and fetches the pictures at the first start.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
train=$here/../train
"$train/setup.sh"
cache=${LIVEDIFFUSION_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/livediffusion}
python=$cache/export/bin/python
export PYTHONPATH="$here:$train${PYTHONPATH:+:$PYTHONPATH}"
data=$cache/default-pack
"$python" -m pack_train.photos "$data"
exec "$python" -m pack_quality --data "$data" "$@"
