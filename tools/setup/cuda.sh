#!/bin/sh
# Puts an ONNX Runtime for NVIDIA cards, with the CUDA and cuDNN libraries that it needs, where livediffusion finds them:
# CACHE/ort/cuda-VERSION/ and its folder cuda/, from which they are preloaded by path. About 2 GB are fetched; nothing is installed
# but in the cache. Says nothing when all is there.
#
#   tools/setup/cuda.sh [12|13]     the CUDA version: 12 (driver 525 or newer, the default) or 13 (driver 580 or newer)
#
# TensorRT is not among them: tensorrt.sh puts it there.
set -eu
here=$(dirname "$0")
. "$here/fetch.sh"
cuda=${1:-12}
requirement=$here/cuda-$cuda.txt
if [ ! -f "$requirement" ] || [ "$(uname -m)" != x86_64 ]; then
    echo "error: there are no pinned CUDA $cuda libraries for $(uname -m)" >&2
    echo "hint: tools/setup/cuda.sh 12 or 13, on x86-64; elsewhere name your own library by --ort-lib" >&2
    exit 3
fi
"$here/nvrtc.sh"
version=$(pinned "$requirement" onnxruntime-gpu)
target=$cache/ort/cuda-$version
[ ! -e "$target/libonnxruntime.so.$version" ] || exit 0

echo "fetching ONNX Runtime $version for CUDA $cuda (about 2 GB)"
begin "$target"
download "$requirement" manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64 manylinux_2_12_x86_64 \
    manylinux2010_x86_64
mkdir "$work/lib/cuda"
unzip -qjo "$work"/onnxruntime_gpu-*.whl -d "$work/lib" \
    "onnxruntime/capi/libonnxruntime.so.$version" 'onnxruntime/capi/libonnxruntime_providers_*.so'
for wheel in "$work"/nvidia_*.whl; do
    # CUDA 12 has a folder for each library, CUDA 13 one for all.
    unzip -qjo "$wheel" 'nvidia/*/lib/*.so*' -d "$work/lib/cuda"
    rm "$wheel"
done
# Second builds of the same, and interfaces that nobody here asks for.
rm -f "$work"/lib/cuda/*.alt.so* "$work"/lib/cuda/libnvblas* "$work"/lib/cuda/libcufftw*
finish
echo "taken from now on where the driver sees a card; elsewhere by --ort-lib $target"
