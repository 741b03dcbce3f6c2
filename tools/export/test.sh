#!/bin/sh
# Tests the exporter on random-weight models; arguments go to pytest. A few minutes on two cores.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
"$here/setup.sh"
cache=${LIVEDIFFUSION_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/livediffusion}
exec "$cache/export/bin/python" -m pytest --quiet -p no:cacheprovider --rootdir "$here" -W ignore "$here/tests" "$@"
