#!/bin/sh
# Tests training and measuring of packs; arguments go to pytest. A few minutes on two cores.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
"$here/setup.sh"
cache=${LIVEDIFFUSION_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/livediffusion}
export TOKENIZERS_PARALLELISM=false
export PYTHONPATH="$here:$here/../quality${PYTHONPATH:+:$PYTHONPATH}"
exec "$cache/export/bin/python" -m pytest --quiet -p no:cacheprovider --rootdir "$here/.." -W ignore "$here/tests" "$here/../quality/tests" "$@"
