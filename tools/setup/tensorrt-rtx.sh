#!/bin/sh
# Puts an ONNX Runtime with NVIDIA's TensorRT for RTX as a plug-in beside it where livediffusion looks for them:
# CACHE/ort/tensorrt-rtx-VERSION-PLUGIN-cuda12/ or -cuda13/. They are taken with --provider tensorrt-rtx alone. Beside the driver they
# need nothing else: neither CUDA's libraries nor cuDNN. Says nothing when they are there.
#
#   tools/setup/tensorrt-rtx.sh [12|13]     the CUDA version: 12 (driver 560 or newer, 570 for the 50 series; the default) or
#                                     13 (driver 580 or newer)
set -eu
here=$(dirname "$0")
. "$here/fetch.sh"
cuda=${1:-12}
requirement=$here/tensorrt-rtx-$cuda.txt
if [ ! -f "$requirement" ] || [ "$(uname -m)" != x86_64 ]; then
    echo "error: there is no pinned TensorRT for RTX of CUDA $cuda for $(uname -m)" >&2
    echo "hint: 12 or 13, on x86-64; elsewhere name the plug-in of your own in LIVEDIFFUSION_TENSORRT_RTX_LIB" >&2
    exit 3
fi
"$here/nvrtc.sh"
version=$(pinned "$requirement" onnxruntime)
plugin=$(pinned "$requirement" "onnxruntime-ep-nv-tensorrt-rtx-cu$cuda")
target=$cache/ort/tensorrt-rtx-$version-$plugin-cuda$cuda
[ ! -e "$target/libonnxruntime.so.$version" ] || exit 0

echo "fetching ONNX Runtime $version with TensorRT for RTX, plug-in $plugin for CUDA $cuda (0.2 GB)"
begin "$target"
download "$requirement" manylinux_2_28_x86_64 manylinux_2_27_x86_64
for wheel in "$work"/*.whl; do
    unzip -qjo "$wheel" '*/lib*.so*' -d "$work/lib"
done
# The names by which they ask for each other.
for library in "$work"/lib/libtensorrt_rtx.so.*.*.* "$work"/lib/libtensorrt_onnxparser_rtx.so.*.*.* "$work"/lib/libcudart.so.*.*.*; do
    file=${library##*/} name=${library##*/}
    while [ "$name" != "${name%.*}" ] && [ "${name##*.}" != so ]; do
        name=${name%.*}
        ln -sf "$file" "$work/lib/$name"
    done
done
finish
