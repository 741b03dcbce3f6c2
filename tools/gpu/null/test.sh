#!/bin/sh
# ONNX Runtime's CUDA and TensorRT providers, as `make setup-cuda` fetches them, on a CUDA and a TensorRT that do nothing: what the whole
# program asks of a card is written down and looked at, without one. It shows that every option is taken, that each network's nodes are
# on the card, that engines are built once and for all calls that come, that a frame crosses the bus twice and waits for nothing, and
# how the program ends where the card is full; it cannot show a number, nor a time, nor whether the real TensorRT takes a network.
#
#   tools/gpu/null/test.sh [12|13]     the CUDA version (13). The provider is fetched (0.25 GB), CUDA's libraries are not.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
cuda=${1:-13}
binary=${LIVEDIFFUSION_BINARY:-$root/target/release/livediffusion}
[ -x "$binary" ] || { echo "error: there is no $binary" >&2 && echo "hint: make build, or name one in LIVEDIFFUSION_BINARY" >&2 && exit 3; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
"$here/make.sh" "$work" "$cuda"

# What ONNX Runtime 1.26 does in a frame and 1.31 does not: it hands lists to kernels through copies, and waits for each graph.
allowed=""
[ "$cuda" != 12 ] || allowed="--allow cudaMemcpyAsync(up) --allow cudaStreamSynchronize"

# The driver is all that the loader finds, as on a user's machine: CUDA's libraries, cuDNN's and TensorRT's are there because the program
# has loaded them before, from the folder that it is told.
export LD_LIBRARY_PATH="$work/driver"

# Why the command before failed: its own word, or the last one before it was stopped.
reason() {
    grep '^error: ' "$work/said" || grep -v '^Aborted' "$work/said" | tail -n 1
}

failed=0
# check WHAT MODEL [--frame BYTES] [--picture BYTES] [--graphs N] [--engines N] [--streams N] -- ARGUMENTS...: a stream of that model, and what it asked for.
provider=cuda precision=f32
check() {
    what="$provider $precision: $1" pack=$2 expected=""
    shift 2
    while [ "$1" != -- ]; do expected="$expected $1" && shift; done
    shift
    rm -f "$work/trace"
    # Pixels of a side for each of a latent's.
    case $pack in */default) factor=4 ;; *) factor=8 ;; esac
    if ! LIVEDIFFUSION_CACHE=$work/cache LIVEDIFFUSION_CARD_TRACE=$work/trace \
        LIVEDIFFUSION_NULL_FACTOR=$factor "$binary" bench gpu --model "$pack" --provider "$provider" --ort-lib "$work/ort" \
        --cuda-lib-dir "$work/cuda" --size 64x64 --rounds 1 --frames 16 --precision "$precision" "$@" >"$work/said" 2>&1; then
        echo "$what: fails: $(reason)" && failed=1
        return
    fi
    # A warning is of something that does not stay on the card, or of an engine that is built once.
    if grep WARN "$work/said" | grep -qv -e 'waits for every CUDA graph' -e 'building the TensorRT engine' -e 'new timing cache' -e 'does not load'; then
        echo "$what: $(grep WARN "$work/said")" && failed=1
    fi
    printf '%s: ' "$what"
    python3 "$here/check.py" "$work/trace" --frame 12288 $expected $allowed || failed=1
    # What TensorRT made is given back, contexts before their engine (tensorrt.cpp).
    for object in engine context; do
        made=$(grep -c "^tensorrt_$object " "$work/trace" || true) ended=$(grep -c "^tensorrt_${object}_end " "$work/trace" || true)
        [ "$made" = "$ended" ] || { echo "$what: TensorRT made $made of ${object}s, and $ended ended" && failed=1; }
    done
}
# built N [NETWORK...]: how many engines TensorRT built for the stream before, and for which networks it was said that this takes minutes.
built() {
    count=$(grep -c '^tensorrt_build' "$work/trace" || true)
    [ "$count" = "$1" ] || { echo "$what: TensorRT built $count engines, and not $1" && failed=1; }
    shift
    for network in "$@"; do
        echo "$network"
    done | sort >"$work/want"
    sed -n 's/.*building the TensorRT engine of the \(.*\), takes minutes once$/\1/p' "$work/said" | sort >"$work/told"
    cmp -s "$work/want" "$work/told" || {
        echo "$what: 'takes minutes once' is said of" $(cat "$work/told") "- and not of" $(cat "$work/want") && failed=1
    }
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

# What a ControlNet is shown goes up behind the frame, in one copy with it.
controlled=$root/onnx/tests/data/control shown="--frame 24576 --picture 12288"
check "ControlNet" "$controlled" $shown -- --steps 2 --cfg full
check "ControlNet, VAE apart, CUDA graphs" "$controlled" $shown --streams 3 --graphs 3 -- --steps 2 --cfg self --vae-streams --cuda-graph

# In f16 by casts in the graph, which ONNX Runtime folds where they are of weights.
precision=f16
check "ControlNet" "$controlled" $shown -- --steps 1 --cfg none
for model in "$root/models/default" "$goldens/tiny-sd15-kl" "$goldens/tiny-sdxlturbo"; do
    check "${model##*/}" "$model" -- --steps 1 --cfg none
    check "${model##*/}, CUDA graphs" "$model" --graphs 3 -- --steps 2 --cfg self --cuda-graph
done
precision=f32

provider=tensorrt
check "default pack" "$root/models/default" --engines 3 -- --steps 1 --cfg none
built 4 "VAE encoder" "VAE decoder" "text encoder" "U-Net"
# The trial whether it works here builds none.
check "default pack again" "$root/models/default" --engines 3 -- --steps 1 --cfg none
built 0
# One that was built and does not load is built anew.
export LIVEDIFFUSION_NULL_REFUSES=1
check "default pack, one engine refused" "$root/models/default" --engines 3 -- --steps 1 --cfg none
built 1 "VAE encoder"
unset LIVEDIFFUSION_NULL_REFUSES
check "default pack, all engines found" "$root/models/default" --engines 3 -- --steps 1 --cfg none
built 0
precision=f16
check "default pack" "$root/models/default" --engines 3 -- --steps 1 --cfg none
# The text encoder stays as it was.
built 3 "VAE encoder" "VAE decoder" "U-Net"
precision=f32
check "default pack, four steps, full guidance" "$root/models/default" --engines 3 -- --steps 4 --cfg full
check "default pack, VAE apart" "$root/models/default" --engines 3 --streams 3 -- --steps 2 --cfg self --vae-streams
for model in tiny-sd15 tiny-sd15-kl tiny-sdturbo tiny-sdxlturbo; do
    check "$model" "$goldens/$model" --engines 3 -- --steps 2 --cfg initialize
done
# Text encoders with every side left open are built once too.
check "tiny-sdxlturbo again" "$goldens/tiny-sdxlturbo" --engines 3 -- --steps 2 --cfg initialize
built 0
check "ControlNet" "$controlled" $shown --engines 3 -- --steps 2 --cfg full
check "ControlNet again" "$controlled" $shown --engines 3 -- --steps 2 --cfg full
built 0
# Channels without a number are the model's.
cp -r "$goldens/tiny-sd15" "$work/open-channels"
python3 "$here/open_channels.py" "$work/open-channels/unet/model.onnx" "$work/open-channels"/vae_*/model.onnx
check "open channels" "$work/open-channels" --engines 3 -- --steps 2 --cfg none
check "open channels again" "$work/open-channels" --engines 3 -- --steps 2 --cfg none
built 0
# A U-Net whose time step has a length of its own, as optimum exports it, is tried with rows of different times first.
cp -r "$goldens/tiny-sd15" "$work/of-its-own"
python3 - "$work/of-its-own/unet/model.onnx" <<'EOF'
import pathlib, re, sys
model = pathlib.Path(sys.argv[1])
changed, count = re.subn(rb"(\x0a\x08timestep\x12.{0,16}\x12\x0a)batch_size", rb"\1step_count", model.read_bytes(), flags=re.DOTALL)
assert count == 1, count
model.write_bytes(changed)
EOF
check "a time step of its own length" "$work/of-its-own" --engines 3 -- --steps 2 --cfg none

# Rows beyond those of a usual session, and frames that enter together, are in the profiles of whoever measures them.
for bench in "rcfg --steps 5" "throughput --steps 1 --frame-buffers 2"; do
    printf 'tensorrt: bench %s: ' "$bench"
    # shellcheck disable=SC2086 # the words are meant to be split
    if LIVEDIFFUSION_CACHE=$work/cache LIVEDIFFUSION_NULL_FACTOR=4 "$binary" bench $bench \
        --model "$root/models/default" --provider tensorrt --ort-lib "$work/ort" --cuda-lib-dir "$work/cuda" --size 64x64 --rounds 1 \
        --frames 4 >"$work/said" 2>&1; then
        echo "it is taken"
    else
        echo "fails: $(reason)" && failed=1
    fi
done

provider=cuda
# Streams of one and of four steps by turns, on the same session, whose convolutions know the plan of one shape: those of cuDNN that are made
# are the first calls' own. Anew in every call they were 150 000.
printf 'streams of one and of four steps: '
rm -f "$work/trace"
if LIVEDIFFUSION_CACHE=$work/cache LIVEDIFFUSION_CARD_TRACE=$work/trace "$binary" bench scaling --model "$root/models/default" --streams 2 \
    --steps 1,4 --provider cuda --ort-lib "$work/ort" --cuda-lib-dir "$work/cuda" --size 64x64 --rounds 1 --frames 60 >"$work/said" 2>&1; then
    plans=$(grep -c '^cudnnBackendFinalize' "$work/trace" || true)
    [ "$plans" -lt 30000 ] && echo "$plans parts of plans" || { echo "fails: $plans parts of plans" && failed=1; }
else
    echo "fails: $(reason)" && failed=1
fi
# A card that nothing was set up for is not passed over in silence.
printf 'a card that is not used: '
"$binary" run --model "$root/models/default" --input test://ball --output "$work/frames/" --frames 1 --size 64x64 \
    >"$work/said" 2>&1 || true
if grep -q 'the NVIDIA card is not used' "$work/said"; then
    echo "it is said"
else
    echo "fails: nothing is said: $(tail -n 1 "$work/said")" && failed=1
fi
# lacks WHAT HINT COMMAND...: it ends with 3, an error that names what is missing, and a hint.
lacks() {
    printf 'without %s: ' "$1"
    if ldconfig -p | grep -q "$1"; then
        echo "skipped: the system has it"
        return
    fi
    wanted=$1 hint=$2 code=0
    shift 2
    env "$@" --model "$root/models/default" --provider "$provider" --ort-lib "$work/ort" --input test://ball --output "$work/frames/" \
        --frames 1 --size 64x64 >"$work/said" 2>&1 || code=$?
    tail -n 2 "$work/said" >"$work/end"
    if [ "$code" = 3 ] && sed -n 1p "$work/end" | grep -q "^error: .*$wanted" && sed -n 2p "$work/end" | grep -q "^hint: .*$hint"; then
        echo "it is said"
    else
        echo "fails: exit $code: $(cat "$work/end")" && failed=1
    fi
}
mkdir "$work/some"
cp -P "$work/cuda"/* "$work/some/"
rm "$work/some"/libcudnn.so.*
lacks libcudnn 'make setup-cuda' "$binary" run --cuda-lib-dir "$work/some"
lacks libcuda.so.1 'driver' LD_LIBRARY_PATH= "$binary" run --cuda-lib-dir "$work/cuda"
provider=tensorrt
rm "$work/some"/libnvinfer.so.*
cp "$work/cuda"/libcudnn.so.* "$work/some/"
lacks libnvinfer 'make setup-tensorrt' "$binary" run --cuda-lib-dir "$work/some"
provider=cuda
# What the card's own counters say (nvml.c): 200 W for the time that the pictures took, and all that was allocated.
printf 'energy and memory: '
rm -f "$work/trace"
LIVEDIFFUSION_CACHE=$work/cache LIVEDIFFUSION_CARD_TRACE=$work/trace "$binary" bench gpu --brief --json --model "$root/models/default" \
    --provider cuda --ort-lib "$work/ort" --cuda-lib-dir "$work/cuda" --size 64x64 --precision f32 --steps 1 --cfg none --rounds 1 \
    --frames 64 >"$work/json" 2>"$work/said" || { echo "fails: $(reason)" && failed=1; }
python3 - "$work/json" "$work/trace" <<'EOF' || failed=1
import json, sys
measured = json.load(open(sys.argv[1]))
case, = measured["cases"]
memory, = [figure.get("p50") for figure in measured["figures"] if figure["figure"] == "memory of the card"]
assert case["joules"] and memory, f"joules {case['joules']}, memory {memory}"
watts = case["joules"] * case["fps"]
assert 160 < watts < 320, f"{watts} W, and the card takes 200"
calls = [line.split() for line in open(sys.argv[2])]
taken = sum(int(call[1]) for call in calls if call[0] in ("cudaMalloc", "cudaMallocAsync", "cuMemAlloc")) / 1e6
assert abs(memory / taken - 1) < 0.01, f"{memory} MB, and {taken} MB were allocated"
print(f"{watts:.0f} W, {memory:.1f} MB")
EOF
# A card that is full from an allocation on: in the trial whether the provider works, while the networks are loaded, where the frames' own memory is taken, and in the last call
# that takes any. It ends with what failed and with what to do.
frames() {
    rm -rf "$work/frames" "$work/trace"
    LIVEDIFFUSION_CACHE=$work/cache LIVEDIFFUSION_CARD_TRACE=$work/trace "$binary" run --model "$root/models/default" --provider cuda \
        --ort-lib "$work/ort" --cuda-lib-dir "$work/cuda" --size 64x64 --precision f32 --input test://ball --output "$work/frames/" \
        --frames 4 >"$work/said" 2>&1
}
frames || { echo "four frames: $(tail -n 1 "$work/said")" && failed=1; }
grep -E '^(cudaMalloc|cudaMallocAsync|cuMemAlloc) ' "$work/trace" >"$work/taken"
all=$(wc -l <"$work/taken") own=$(grep -n -m 1 '^cuMemAlloc ' "$work/taken" | cut -d: -f1)
for at in 1 $((all / 3)) "$own" "$all"; do
    printf 'full from allocation %s of %s on: ' "$at" "$all"
    export LIVEDIFFUSION_NULL_FULL="$at"
    code=0
    frames || code=$?
    unset LIVEDIFFUSION_NULL_FULL
    tail -n 2 "$work/said" >"$work/end"
    case $code in 1 | 3) is_told=yes ;; *) is_told="" ;; esac
    sed -n 1p "$work/end" | grep -q '^error: .*memory' || is_told=""
    sed -n 2p "$work/end" | grep -q "^hint: .*smaller --size.*f16.*TAESD" || is_told=""
    [ -z "$is_told" ] && echo "fails: exit $code: $(cat "$work/end")" && failed=1 || echo "exit $code"
done
# Which arithmetic is faster is measured on the card, once. Here none is, and the pictures are the same: the first is taken.
calibrate() {
    LIVEDIFFUSION_CACHE=$work/cache "$binary" doctor --model "$root/models/default" \
        --ort-lib "$work/ort" --cuda-lib-dir "$work/cuda" "$@" >"$work/said" 2>&1 || true
}
printf 'f16 or f32: '
calibrate --calibrate
if grep -q 'cuda f16 .*ms a frame' "$work/said" && grep -q 'cuda f32 .*ms a frame' "$work/said"; then
    calibrate
    # An earlier start's word.
    grep -q 'chosen  *cuda .*measured here' "$work/said" && echo "measured" || { cat "$work/said" && failed=1; }
else
    cat "$work/said" && failed=1
fi
# On threads of their own, all with graphs to capture: one that waits for another in a circle would not end.
printf 'eight streams at once, CUDA graphs: '
if LIVEDIFFUSION_CACHE=$work/cache timeout 300 "$binary" bench scaling --model "$root/models/default" \
    --streams 8 --provider cuda --ort-lib "$work/ort" --cuda-lib-dir "$work/cuda" --size 64x64 --rounds 2 --frames 20 --cuda-graph \
    --vae-streams >"$work/said" 2>&1; then
    echo "they end"
else
    echo "fails: $(reason)" && failed=1
fi
[ "$failed" = 0 ] && echo ok
exit "$failed"
