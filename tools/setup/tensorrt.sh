#!/bin/sh
# Puts TensorRT's libraries beside the ONNX Runtime that cuda.sh has fetched, where they are preloaded from. NVIDIA hands them out on an
# index of its own (PyPI's packages of that name only send pip there), so that it is asked alone, over HTTPS, and nothing here knows their
# hashes. About 2 GB are fetched. Says nothing when they are there.
#
#   tools/setup/tensorrt.sh [12|13]     the CUDA version, as of cuda.sh (12)
#
# LIVEDIFFUSION_TENSORRT_INDEX names another index.
set -eu
here=$(dirname "$0")
. "$here/fetch.sh"
cuda=${1:-12}
# ONNX Runtime 1.26 (CUDA 12) and 1.31 (CUDA 13) load libnvinfer.so.10, whichever 10 it is. Not yet run with this one.
wanted=10.14.1.48
index=${LIVEDIFFUSION_TENSORRT_INDEX:-https://pypi.nvidia.com}
requirement=$here/cuda-$cuda.txt
if [ ! -f "$requirement" ] || [ "$(uname -m)" != x86_64 ]; then
    echo "error: there is no TensorRT for CUDA $cuda and $(uname -m) here" >&2
    echo "hint: tools/setup/tensorrt.sh 12 or 13, on x86-64" >&2
    exit 3
fi
libraries=$cache/ort/cuda-$(pinned "$requirement" onnxruntime-gpu)/cuda
if [ ! -d "$libraries" ]; then
    echo "error: there is no ONNX Runtime for CUDA $cuda in $cache/ort" >&2
    echo "hint: make setup-cuda CUDA=$cuda" >&2
    exit 3
fi
[ ! -e "$libraries/libnvinfer.so.10" ] || exit 0

echo "fetching TensorRT $wanted for CUDA $cuda (about 2 GB)"
begin "$libraries/tensorrt"
if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 311 --index-url "$index" \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --dest "$work" \
    "tensorrt-cu$cuda-libs==$wanted" >&2; then
    echo "error: $index gave no tensorrt-cu$cuda-libs $wanted" >&2
    echo "hint: put libnvinfer.so.10, libnvinfer_plugin.so.10, libnvonnxparser.so.10 and libnvinfer_builder_resource* into $libraries" >&2
    exit 1
fi
unzip -qjo "$work"/*.whl 'tensorrt_libs/*.so*' -d "$work/lib"
# Of what is there only these are asked for. The one that says that all are there comes last.
for name in libnvinfer_builder_resource libnvinfer_plugin.so libnvonnxparser.so libnvinfer.so; do
    found=""
    for file in "$work/lib/$name"*; do
        [ -f "$file" ] || continue
        mv "$file" "$libraries/" || exit 1
        found=yes
    done
    [ -n "$found" ] || { echo "error: $name is not in the package of $index" >&2 && echo "hint: see $libraries" >&2 && exit 1; }
done
