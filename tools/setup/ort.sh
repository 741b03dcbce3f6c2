#!/bin/sh
# Puts the pinned ONNX Runtime library where livediffusion looks for it: CACHE/ort/FLAVOUR-VERSION/. Says nothing when it is there.
set -eu
here=$(dirname "$0")
. "$here/fetch.sh"
machine=$(uname -m)
case $machine in
    x86_64) flavour=openvino package=onnxruntime-openvino platform=manylinux_2_28_x86_64 ;;
    aarch64) flavour=cpu package=onnxruntime platform=manylinux_2_28_aarch64 ;;
    *)
        echo "error: there is no pinned ONNX Runtime for $machine" >&2
        echo "hint: install onnxruntime and name its library in ORT_DYLIB_PATH" >&2
        exit 3
        ;;
esac
version=$(pinned "$here/ort-$machine.txt" "$package")
target=$cache/ort/$flavour-$version
[ ! -e "$target/libonnxruntime.so.$version" ] || exit 0

echo "fetching ONNX Runtime $version ($flavour)"
begin "$target"
download "$here/ort-$machine.txt" "$platform"
# Only what is loaded: the runtime, the providers, and OpenVINO's core, ONNX reader and CPU plug-in.
unzip -qjo "$work"/*.whl -d "$work/lib" \
    "onnxruntime/capi/libonnxruntime.so.$version" \
    'onnxruntime/capi/libonnxruntime_providers_*.so'
if [ "$flavour" = openvino ]; then
    unzip -qjo "$work"/*.whl -d "$work/lib" 'onnxruntime/capi/libopenvino.so.????' \
        'onnxruntime/capi/libopenvino_onnx_frontend.so.????' 'onnxruntime/capi/libopenvino_intel_cpu_plugin.so' \
        'onnxruntime/capi/libtbb.so.12'
fi
finish
