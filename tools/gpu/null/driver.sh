#!/bin/sh
# Builds the driver of the kernels' tests in a folder, and beside it the library that tells of the card: FOLDER/libcuda.so.1,
# FOLDER/libnvidia-ml.so.1.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
folder=$1
parts=$(sed -n 's/.*include_str!("\(.*\.cu\)").*/\1/p' "$root/kernels/src/gpu/source.rs")
[ -n "$parts" ] || { echo "error: no kernels in kernels/src/gpu/source.rs" >&2 && exit 1; }
(cd "$root/kernels/src/gpu" && cat $parts) >"$folder/kernels.cu"
host=$root/kernels/tests/it/host
c++ -std=c++17 -O1 -w -fPIC -shared -ffp-contract=off -fno-strict-aliasing -I "$folder" -I "$host" "$here/memory.cpp" \
    -o "$folder/libcuda.so.1"
cc -O1 -fPIC -shared -w "$here/nvml.c" -o "$folder/libnvidia-ml.so.1"
