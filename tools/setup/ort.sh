#!/bin/sh
# Puts the pinned ONNX Runtime library where livediffusion looks for it: CACHE/ort/FLAVOUR-VERSION/.
# Says nothing when it is there. The wheel's hash is checked by pip; the folder appears whole or not at all.
set -eu
here=$(dirname "$0")
cache=${LIVEDIFFUSION_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/livediffusion}
machine=$(uname -m)
case $machine in
    x86_64) flavour=openvino platform=manylinux_2_28_x86_64 ;;
    aarch64) flavour=cpu platform=manylinux_2_28_aarch64 ;;
    *)
        echo "error: there is no pinned ONNX Runtime for $machine" >&2
        echo "hint: install onnxruntime and name its library in ORT_DYLIB_PATH" >&2
        exit 3
        ;;
esac
requirement=$here/ort-$machine.txt
version=$(sed -n 's/^onnxruntime[a-z-]*==\([0-9.]*\).*/\1/p' "$requirement")
target=$cache/ort/$flavour-$version
[ ! -e "$target/libonnxruntime.so.$version" ] || exit 0

mkdir -p "$cache/ort"
work=$(mktemp -d "$cache/ort/.unpack-XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM
echo "fetching ONNX Runtime $version ($flavour)"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
    --python-version 311 --implementation cp --abi cp311 --platform "$platform" \
    --dest "$work" --requirement "$requirement"
# Only what is loaded: the runtime, the providers, and OpenVINO's core, ONNX reader and CPU plug-in.
unzip -qjo "$work"/*.whl -d "$work/lib" \
    "onnxruntime/capi/libonnxruntime.so.$version" \
    'onnxruntime/capi/libonnxruntime_providers_*.so'
if [ "$flavour" = openvino ]; then
    unzip -qjo "$work"/*.whl -d "$work/lib" 'onnxruntime/capi/libopenvino.so.????' \
        'onnxruntime/capi/libopenvino_onnx_frontend.so.????' 'onnxruntime/capi/libopenvino_intel_cpu_plugin.so' \
        'onnxruntime/capi/libtbb.so.12'
fi
rm -rf "$target"
mv "$work/lib" "$target"
