#!/bin/sh
# Prints the folder of the pinned ONNX Runtime for CUDA: that of `make setup-cuda`, or one without CUDA's own libraries, which is fetched
# (0.25 GB) to where nothing else looks for it. The folder appears whole or not at all.
#
#   tools/gpu/ort.sh 12|13
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${LIVEDIFFUSION_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/livediffusion}
requirement=$here/../setup/cuda-${1:-}.txt
if [ ! -f "$requirement" ] || [ "$(uname -m)" != x86_64 ]; then
    echo "error: there is no pinned ONNX Runtime for CUDA ${1:-} on $(uname -m)" >&2
    echo "hint: 12 or 13, on x86-64" >&2
    exit 3
fi
version=$(sed -n 's/^onnxruntime-gpu==\([0-9.]*\).*/\1/p' "$requirement")
for ort in "$cache/ort/cuda-$version" "$cache/null/ort-$version"; do
    [ ! -e "$ort/libonnxruntime.so.$version" ] || { echo "$ort" && exit 0; }
done
mkdir -p "$cache/null"
work=$(mktemp -d "$cache/null/.unpack-XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM
echo "fetching ONNX Runtime $version for CUDA $1, without CUDA (0.25 GB)" >&2
grep '^onnxruntime-gpu==' "$requirement" >"$work/wheel.txt"
# As setup/cuda.sh has it: the hash is of one of the wheel's builds, whose libraries are the same in all.
python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
    --python-version 311 --implementation cp --abi cp311 --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
    --dest "$work" --requirement "$work/wheel.txt" >&2
unzip -qjo "$work"/onnxruntime_gpu-*.whl -d "$work/lib" "onnxruntime/capi/libonnxruntime.so.$version" \
    'onnxruntime/capi/libonnxruntime_providers_*.so'
rm -rf "$ort"
mv "$work/lib" "$ort"
echo "$ort"
