#!/bin/sh
# Makes a model pack of a Stable Diffusion model in PyTorch: export.sh --model FOLDER_OR_FILE --out PACK. --help lists the options.
# Sets up its Python environment at the first start.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
"$here/setup.sh"
cache=${LIVEDIFFUSION_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/livediffusion}
PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH} exec "$cache/export/bin/python" -m pack_export "$@"
