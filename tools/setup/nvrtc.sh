#!/bin/sh
# Puts the pinned NVRTC, which compiles the CUDA kernels, where livediffusion looks for it: CACHE/cuda/nvrtc-VERSION/. It needs no
# GPU and no driver. Says nothing when it is there.
set -eu
here=$(dirname "$0")
. "$here/fetch.sh"
machine=$(uname -m)
case $machine in
    x86_64) platform=manylinux_2_12_x86_64 ;;
    aarch64) platform=manylinux2014_aarch64 ;;
    *)
        echo "error: there is no pinned NVRTC for $machine" >&2
        exit 3
        ;;
esac
version=$(pinned "$here/nvrtc.txt" nvidia-cuda-nvrtc-cu12)
target=$cache/cuda/nvrtc-$version
[ ! -e "$target/libnvrtc.so.12" ] || exit 0

echo "fetching NVRTC $version"
begin "$target"
download "$here/nvrtc.txt" "$platform"
# The compiler, and the code that it adds to every program. The wheel has both twice.
unzip -qjo "$work"/*.whl -d "$work/lib" 'nvidia/cuda_nvrtc/lib/libnvrtc.so.12' \
    'nvidia/cuda_nvrtc/lib/libnvrtc-builtins.so.*'
finish
