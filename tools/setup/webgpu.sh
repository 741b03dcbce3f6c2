#!/bin/sh
# Puts an ONNX Runtime with its WebGPU plug-in beside it where livediffusion looks for them: CACHE/ort/webgpu-VERSION-PLUGIN/. They are taken
# with --provider webgpu alone. Says nothing when they are there. pip checks the hashes; the folder appears whole or not at all.
set -eu
here=$(dirname "$0")
cache=${LIVEDIFFUSION_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/livediffusion}
machine=$(uname -m)
case $machine in
    x86_64 | aarch64) ;;
    *)
        echo "error: there is no pinned WebGPU plug-in for $machine" >&2
        echo "hint: install onnxruntime-ep-webgpu and name its library in LIVEDIFFUSION_WEBGPU_LIB" >&2
        exit 3
        ;;
esac
requirement=$here/webgpu.txt
version=$(sed -n 's/^onnxruntime==\([0-9.]*\).*/\1/p' "$requirement")
plugin=$(sed -n 's/^onnxruntime-ep-webgpu==\([0-9.]*\).*/\1/p' "$requirement")
target=$cache/ort/webgpu-$version-$plugin
[ ! -e "$target/libonnxruntime.so.$version" ] || exit 0

mkdir -p "$cache/ort"
work=$(mktemp -d "$cache/ort/.unpack-XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM
echo "fetching ONNX Runtime $version with its WebGPU plug-in $plugin (35 MB)"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
    --python-version 311 --implementation cp --abi cp311 --abi none --platform "manylinux_2_28_$machine" \
    --platform "manylinux_2_27_$machine" --dest "$work" --requirement "$requirement"
for wheel in "$work"/*.whl; do
    unzip -qjo "$wheel" '*/libonnxruntime*.so*' -d "$work/lib"
done
rm -rf "$target"
mv "$work/lib" "$target"
