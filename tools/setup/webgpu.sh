#!/bin/sh
# Puts an ONNX Runtime with its WebGPU plug-in beside it where livediffusion looks for them: CACHE/ort/webgpu-VERSION-PLUGIN/. They are taken
# with --provider webgpu alone. Says nothing when they are there.
set -eu
here=$(dirname "$0")
. "$here/fetch.sh"
machine=$(uname -m)
case $machine in
    x86_64 | aarch64) ;;
    *)
        echo "error: there is no pinned WebGPU plug-in for $machine" >&2
        echo "hint: install onnxruntime-ep-webgpu and name its library in LIVEDIFFUSION_WEBGPU_LIB" >&2
        exit 3
        ;;
esac
version=$(pinned "$here/webgpu.txt" onnxruntime)
plugin=$(pinned "$here/webgpu.txt" onnxruntime-ep-webgpu)
target=$cache/ort/webgpu-$version-$plugin
[ ! -e "$target/libonnxruntime.so.$version" ] || exit 0

echo "fetching ONNX Runtime $version with its WebGPU plug-in $plugin (35 MB)"
begin "$target"
download "$here/webgpu.txt" "manylinux_2_28_$machine" "manylinux_2_27_$machine"
for wheel in "$work"/*.whl; do
    unzip -qjo "$wheel" '*/libonnxruntime*.so*' -d "$work/lib"
done
finish
