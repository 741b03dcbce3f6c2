#!/bin/sh
# Measures a pack on pictures that it was not trained on: quality.sh --model models/default [--data DIR] [--out out/quality].
# --help lists the options. Sets up its Python environment and fetches the pictures at the first start.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
train=$here/../train
"$train/setup.sh"
cache=${LIVEDIFFUSION_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/livediffusion}
python=$cache/export/bin/python
export PYTHONPATH="$here:$train${PYTHONPATH:+:$PYTHONPATH}"
data=$cache/default-pack
take=
for argument; do
    case $argument in
    --data=*) data=${argument#--data=} ;;
    *) [ "$take" = --data ] && data=$argument ;;
    esac
    take=$argument
done
"$python" -m pack_train.photos fetch "$data"
exec "$python" -m pack_quality --data "$data" "$@"
