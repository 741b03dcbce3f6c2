#!/bin/sh
# Prints the folder of the pinned ONNX Runtime for CUDA: that of `make setup-cuda`, or one without CUDA's own libraries, which is fetched
# (0.25 GB) to where nothing else looks for it.
#
#   tools/gpu/ort.sh 12|13
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../setup/fetch.sh"
all=$here/../setup/cuda-${1:-}.txt
if [ ! -f "$all" ] || [ "$(uname -m)" != x86_64 ]; then
    echo "error: there is no pinned ONNX Runtime for CUDA ${1:-} on $(uname -m)" >&2
    echo "hint: 12 or 13, on x86-64" >&2
    exit 3
fi
version=$(pinned "$all" onnxruntime-gpu)
for ort in "$cache/ort/cuda-$version" "$cache/null/ort-$version"; do
    [ ! -e "$ort/libonnxruntime.so.$version" ] || { echo "$ort" && exit 0; }
done
echo "fetching ONNX Runtime $version for CUDA $1, without CUDA (0.25 GB)" >&2
begin "$ort"
grep '^onnxruntime-gpu==' "$all" >"$work/wheel.txt"
download "$work/wheel.txt" manylinux_2_28_x86_64 manylinux_2_27_x86_64
unzip -qjo "$work"/onnxruntime_gpu-*.whl -d "$work/lib" "onnxruntime/capi/libonnxruntime.so.$version" \
    'onnxruntime/capi/libonnxruntime_providers_*.so'
finish
echo "$ort"
