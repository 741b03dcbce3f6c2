#!/bin/sh
# ONNX Runtime's CUDA provider, as `make setup-cuda` fetches it, on a CUDA that does nothing: what the whole program asks of a card is
# written down and looked at, without one. It shows that every option is taken, that each network's nodes are on the card, and that a
# frame crosses the bus twice and waits for nothing; it cannot show a number, nor a time.
#
#   tools/gpu/null/test.sh [12|13]     the CUDA version (13). The provider is fetched (0.25 GB), CUDA's libraries are not.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
cache=${LIVEDIFFUSION_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/livediffusion}
cuda=${1:-13}
requirement=$root/tools/setup/cuda-$cuda.txt
if [ ! -f "$requirement" ] || [ "$(uname -m)" != x86_64 ]; then
    echo "error: there is no pinned ONNX Runtime for CUDA $cuda on $(uname -m)" >&2
    echo "hint: $0 12 or 13, on x86-64" >&2
    exit 3
fi
version=$(sed -n 's/^onnxruntime-gpu==\([0-9.]*\).*/\1/p' "$requirement")
binary=${LIVEDIFFUSION_BINARY:-$root/target/release/livediffusion}
[ -x "$binary" ] || { echo "error: there is no $binary" >&2 && echo "hint: make build, or name one in LIVEDIFFUSION_BINARY" >&2 && exit 3; }

# The library alone, in a place where nothing else looks for it.
ort=$cache/null/ort-$version
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
if [ ! -e "$ort/libonnxruntime.so.$version" ]; then
    mkdir -p "$cache/null"
    echo "fetching ONNX Runtime $version for CUDA $cuda, without CUDA (0.25 GB)"
    grep '^onnxruntime-gpu==' "$requirement" >"$work/wheel.txt"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
        --python-version 311 --implementation cp --abi cp311 --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
        --dest "$work" --requirement "$work/wheel.txt"
    unpacked=$(mktemp -d "$cache/null/.unpack-XXXXXX")
    unzip -qjo "$work"/onnxruntime_gpu-*.whl -d "$unpacked" "onnxruntime/capi/libonnxruntime.so.$version" \
        'onnxruntime/capi/libonnxruntime_providers_*.so'
    rm -rf "$ort"
    mv "$unpacked" "$ort"
fi

# In place of CUDA: the driver that the kernels' tests have, and libraries that do nothing. NVRTC is the real one.
"$root/tools/setup/nvrtc.sh"
mkdir "$work/driver" "$work/cuda"
parts=$(sed -n 's/.*include_str!("\(.*\.cu\)").*/\1/p' "$root/kernels/src/gpu/source.rs")
[ -n "$parts" ] || { echo "error: no kernels in kernels/src/gpu/source.rs" >&2 && exit 1; }
(cd "$root/kernels/src/gpu" && cat $parts) >"$work/driver/kernels.cu"
host=$root/kernels/tests/it/host
c++ -std=c++17 -O1 -w -fPIC -shared -ffp-contract=off -fno-strict-aliasing -I "$work/driver" -I "$host" "$host/driver.cpp" -o "$work/driver/libcuda.so.1"
python3 "$here/stubs.py" "$ort/libonnxruntime_providers_cuda.so" "$work/cuda"
for library in "$cache"/cuda/nvrtc-*/*; do
    ln -s "$library" "$work/cuda/"
done

# What ONNX Runtime 1.26 does in a frame and 1.31 does not: it hands lists to kernels through copies, and waits for each graph.
allowed=""
[ "$cuda" != 12 ] || allowed="--allow cudaMemcpyAsync(up) --allow cudaStreamSynchronize"

failed=0
# check WHAT MODEL [--graphs N] -- ARGUMENTS...: a stream of that model, and what it asked for.
check() {
    what=$1 pack=$2 expected=""
    shift 2
    while [ "$1" != -- ]; do expected="$expected $1" && shift; done
    shift
    rm -f "$work/trace"
    if ! LD_LIBRARY_PATH=$work/driver:$work/cuda LIVEDIFFUSION_CACHE=$work/cache LIVEDIFFUSION_CARD_TRACE=$work/trace \
        "$binary" bench gpu --model "$pack" --provider cuda --ort-lib "$ort" --cuda-lib-dir "$work/cuda" --size 64x64 --rounds 1 \
        --frames 16 "$@" >"$work/said" 2>&1; then
        echo "$what: fails: $(grep '^error: ' "$work/said" || tail -n 1 "$work/said")" && failed=1
        return
    fi
    # A warning is of something that does not stay on the card.
    if grep -q WARN "$work/said"; then
        echo "$what: $(grep WARN "$work/said")" && failed=1
    fi
    printf '%s: ' "$what"
    python3 "$here/check.py" "$work/trace" --frame 12288 $expected $allowed || failed=1
}
goldens=$root/assets/goldens/models
check "default pack" "$root/models/default" -- --steps 1 --cfg none
check "default pack, four steps, full guidance" "$root/models/default" -- --steps 4 --cfg full
check "default pack, CUDA graphs" "$root/models/default" --graphs 3 -- --steps 1 --cfg none --cuda-graph
check "default pack, VAE apart" "$root/models/default" --streams 3 -- --steps 1 --cfg none --vae-streams
check "default pack, VAE apart, CUDA graphs" "$root/models/default" --streams 3 --graphs 3 -- --steps 2 --cfg self --vae-streams --cuda-graph
for model in tiny-sd15 tiny-sd15-kl tiny-sdturbo tiny-sdxlturbo; do
    check "$model" "$goldens/$model" -- --steps 1 --cfg none
    check "$model, CUDA graphs" "$goldens/$model" --graphs 3 -- --steps 2 --cfg self --cuda-graph
done
[ "$failed" = 0 ] && echo ok
exit "$failed"
