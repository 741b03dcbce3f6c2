#!/bin/sh
# Puts the pinned NVRTC, which compiles the CUDA kernels, where livediffusion looks for it: CACHE/cuda/nvrtc-VERSION/. It needs no
# GPU and no driver. Says nothing when it is there. The wheel's hash is checked by pip; the folder appears whole or not at all.
set -eu
here=$(dirname "$0")
cache=${LIVEDIFFUSION_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/livediffusion}
machine=$(uname -m)
case $machine in
    x86_64) platform=manylinux_2_12_x86_64 ;;
    aarch64) platform=manylinux2014_aarch64 ;;
    *)
        echo "error: there is no pinned NVRTC for $machine" >&2
        exit 3
        ;;
esac
requirement=$here/nvrtc.txt
version=$(sed -n 's/^nvidia-cuda-nvrtc-cu12==\([0-9.]*\).*/\1/p' "$requirement")
target=$cache/cuda/nvrtc-$version
[ ! -e "$target/libnvrtc.so.12" ] || exit 0

mkdir -p "$cache/cuda"
work=$(mktemp -d "$cache/cuda/.unpack-XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM
echo "fetching NVRTC $version"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
    --platform "$platform" --dest "$work" --requirement "$requirement"
# The compiler, and the code that it adds to every program. The wheel has both twice.
unzip -qjo "$work"/*.whl -d "$work/lib" 'nvidia/cuda_nvrtc/lib/libnvrtc.so.12' \
    'nvidia/cuda_nvrtc/lib/libnvrtc-builtins.so.*'
rm -rf "$target"
mv "$work/lib" "$target"
