#!/bin/sh
# Measures livediffusion on a machine with an NVIDIA card, from the pieces that `pack.sh` made. It needs no network. There have to
# be the driver, CUDA and cuDNN libraries (a PyTorch image has them as Python packages), coreutils, tar and gzip; for the full-size
# model also python3 with torch, transformers, onnx, safetensors, numpy and Pillow.
#
#   run.sh [--pieces FOLDER] [--work FOLDER] [--out FOLDER] [--stages A,B] [--providers A,B] [--size WxH] [--model PACK]
#          [--vae kl|taesd] [--dtype f16|f32] [--attention fused|plain] [--gpu N] [--bench ARGUMENTS] [--limit S] [--within S]
#          [--receive]
#
#   --pieces FOLDER  pieces.txt and pieces, which may come some at a time (where this script lies)
#   --work FOLDER    what is unpacked and made, kept from call to call (~/.cache/livediffusion-gpu)
#   --out FOLDER     what is found (out-gpu here), and beside it FOLDER.tar.gz, anew after each stage
#   --stages A,B     of doctor,kernels,parity,model,bench,graphs,apart,last,search,roofline,sanitize, in that order (all)
#   --providers A,B  what is measured (cuda)
#   --size WxH       of the pictures (512x512)
#   --model PACK     measured in place of the full-size one with random weights that is made here
#   --vae, --dtype, --attention   of that one (taesd, f16, fused: TensorRT wants plain)
#   --gpu N          number of the card (0)
#   --bench ARGUMENTS   further ones of `livediffusion bench gpu`, in one word: "--steps 1,4 --cfg none"
#   --limit S        longest time of a stage (900; with --within a third of that, and all of it for the model)
#   --within S       longest time of all together; what is not reached is said to be (no end)
#   --receive        take the pieces and stop
#
# Exits with 0 if all went well, 1 if a stage failed, 2 for a wrong option, 3 if something is missing, 4 if pieces are.
set -u
here=$(cd "$(dirname "$0")" && pwd)
pieces=$here work=${HOME:-/tmp}/.cache/livediffusion-gpu out=$PWD/out-gpu
stages=doctor,kernels,parity,model,bench,graphs,apart,last,search,roofline,sanitize providers=cuda size=512x512 model=""
vae=taesd dtype=f16 attention=fused gpu=0 bench="" limit="" within="" receive=""
begun=$(date +%s)

fail() {
    echo "error: $1" >&2
    echo "hint: $2" >&2
    exit "${3:-2}"
}
while [ $# -gt 0 ]; do
    case $1 in
        --receive) receive=yes ;;
        --pieces | --work | --out | --stages | --providers | --size | --model | --vae | --dtype | --attention | --gpu | --bench | --limit | --within)
            [ $# -ge 2 ] || fail "$1 needs a value" "sed -n 2,28p $0 lists the options"
            case $1 in
                --pieces) pieces=$2 ;; --work) work=$2 ;; --out) out=$2 ;; --stages) stages=$2 ;; --providers) providers=$2 ;;
                --size) size=$2 ;; --model) model=$2 ;; --vae) vae=$2 ;; --dtype) dtype=$2 ;; --attention) attention=$2 ;;
                --gpu) gpu=$2 ;; --bench) bench=$2 ;; --limit) limit=${2:-none} ;; --within) within=${2:-none} ;;
            esac
            shift
            ;;
        *) fail "unknown option $1" "sed -n 2,28p $0 lists the options" ;;
    esac
    shift
done
out=${out%/}
for number in ${limit:+"$limit"} ${within:+"$within"}; do
    case $number in *[!0-9]* | 0?* | '') fail "$number is no number of seconds" "--limit 900, --within 600" ;; esac
done
# The model is made beside the other stages: what it takes, none of them lacks.
making_limit=${limit:-${within:-900}}
[ -n "$limit" ] || limit=${within:+$((within / 3))}
limit=${limit:-900}
for stage in $(echo "$stages" | tr , ' '); do
    case $stage in
        doctor | kernels | parity | model | bench | graphs | apart | last | search | roofline | sanitize) ;;
        *) fail "there is no stage $stage" "doctor, kernels, parity, model, bench, graphs, apart, last, search, roofline or sanitize" ;;
    esac
done

# 1. The pieces: what is whole is kept, so that they may come in several calls.
list=$pieces/pieces.txt
[ -f "$list" ] || fail "$pieces holds no pieces.txt" "name the folder of the pieces by --pieces" 3
whole=$(sed -n 's/ .* whole$//p' "$list")
[ ${#whole} = 64 ] || fail "$list names no whole" "carry it anew" 3
kept=$work/$(echo "$whole" | cut -c1-16)
tree=$kept/tree
hash() {
    sha256sum "$1" | cut -d' ' -f1
}
if [ ! -d "$tree" ]; then
    mkdir -p "$kept/pieces" || fail "$kept cannot be made" "give another --work" 3
    missing="" wrong=""
    while read -r want _ name; do
        [ "$name" != whole ] || continue
        if [ ! -f "$kept/pieces/$name" ] && [ -f "$pieces/$name" ]; then
            # Under its name only if it is whole.
            if cp "$pieces/$name" "$kept/arriving" && [ "$(hash "$kept/arriving")" = "$want" ]; then
                mv "$kept/arriving" "$kept/pieces/$name"
            else
                wrong="$wrong $name"
                continue
            fi
        fi
        [ -f "$kept/pieces/$name" ] || missing="$missing $name"
    done <"$list"
    rm -f "$kept/arriving"
    [ -z "$wrong" ] || fail "damaged:$wrong" "carry these anew; what came whole is kept" 4
    [ -z "$missing" ] || fail "not here yet:$missing" "bring them beside pieces.txt and start run.sh again; what came is kept" 4
    rm -rf "$kept/unpacking" && mkdir "$kept/unpacking"
    while read -r _ _ name; do
        [ "$name" = whole ] || cat "$kept/pieces/$name" || exit 1
    done <"$list" >"$kept/whole.tar.gz"
    [ "$(hash "$kept/whole.tar.gz")" = "$whole" ] || fail "the pieces do not make the whole" "make and carry them anew" 4
    gzip -dc "$kept/whole.tar.gz" | tar -C "$kept/unpacking" -xf - || fail "the pieces cannot be unpacked" "is there room in $work?" 1
    mv "$kept/unpacking" "$tree"
    rm -rf "$kept/whole.tar.gz" "$kept/pieces"
fi
echo "unpacked: $tree"
[ -z "$receive" ] || exit 0

# 2. The machine's CUDA and cuDNN beside ONNX Runtime, from where livediffusion preloads them: links, by the first place that has
# each. NVRTC also where it is looked for.
mkdir -p "$out" "$tree/ort/cuda" "$kept/cache/cuda/machine"
cuda=$(cat "$tree/cuda")
folders=""
if command -v python3 >/dev/null; then
    folders=$(python3 -c 'import glob, sys
for path in sys.path:
    print(*glob.glob(path + "/nvidia/*/lib"), *glob.glob(path + "/tensorrt_libs"), sep="\n")' 2>/dev/null)
fi
folders="$folders /usr/local/cuda/lib64 /usr/local/cuda-$cuda/lib64 /usr/lib/x86_64-linux-gnu $(echo "${LD_LIBRARY_PATH:-}" | tr : ' ')"
link() {
    for folder in $folders; do
        for file in "$folder"/$1; do
            name=${file##*/}
            [ ! -e "$file" ] || [ -e "$2/$name" ] || ln -sf "$file" "$2/$name"
        done
    done
}
for pattern in "libcudart.so.$cuda" "libcublas.so.$cuda" "libcublasLt.so.$cuda" 'libcufft.so.1?' 'libcurand.so.10' \
    "libnvJitLink.so.$cuda" "libnvrtc.so.$cuda" "libnvrtc-builtins.so.$cuda*" 'libnvinfer*.so.10*' 'libnvonnxparser.so.10'; do
    link "$pattern" "$tree/ort/cuda"
done
# cuDNN is many libraries of one version: all of them from the first place that has it.
for folder in $folders; do
    if [ -e "$folder/libcudnn.so.9" ]; then
        for file in "$folder"/libcudnn*.so.9; do
            ln -sf "$file" "$tree/ort/cuda/${file##*/}"
        done
        break
    fi
done
link "libnvrtc.so.$cuda" "$kept/cache/cuda/machine"
link "libnvrtc-builtins.so.$cuda*" "$kept/cache/cuda/machine"

# What it started does not outlive it: what runs in the background is not told of an interruption by the terminal.
child="" making=""
end() {
    for running in $child $making; do
        kill "$running" 2>/dev/null
    done
    trap - HUP INT TERM
    exit 130
}
trap end HUP INT TERM
# bounded SECONDS COMMAND...: ended after that time, and with this script. A shell hears of nothing while it waits for what is not in the
# background.
bounded() {
    timeout -k 10 "$@" &
    child=$!
    wait "$child"
    code=$?
    # Its number may be another's from now on.
    child=""
    return "$code"
}

# 3. The stages. Each has a log and a line in the summary, and none keeps the next from being tried. In their order a visit that is cut
# short has most: the card and the kernels work at all, pictures are right in f32 (looked at while the model is made, which the card would
# wait for), what the visit is for, pictures in f16, and then what `bench` is compared with.
# The tests of the kernels compile them once for all their starts.
export LIVEDIFFUSION_CACHE="$kept/cache" LIVEDIFFUSION_TEST_IMAGES="$kept/images" RUST_BACKTRACE=1
binary=$tree/bin/livediffusion
: >"$out/summary.txt"
failed=0
# say STAGE END WHAT: a line in the summary. The archive is made anew with each: who is cut short has all until then in one file.
say() {
    # Of what is still written to, a copy: tar takes nothing that changes meanwhile.
    [ -z "$making" ] || cp "$kept/model.log" "$out/model.log"
    printf '%-10s %-8s %s\n' "$1" "$2" "$3" | tee -a "$out/summary.txt"
    tar -C "$out" -czf "$out.tar.gz.part" . && mv "$out.tar.gz.part" "$out.tar.gz"
}
wanted() {
    case ,$stages, in *",$1,"*) return 0 ;; *) return 1 ;; esac
}
# seconds [MOST]: how many a stage may take. None below 1, which would be no limit.
seconds() {
    left=${1:-$limit}
    rest=${within:+$((within - $(date +%s) + begun))}
    [ "$left" -le "${rest:-$left}" ] || left=$rest
    [ "$left" -ge 1 ] && echo "$left"
}
# stage NAME COMMAND...: its output into the log, its end into the summary.
stage() {
    name=$1
    shift
    started=$(date +%s)
    # What an earlier call left is not this one's.
    : >"$out/$name.log"
    if ! most=$(seconds); then
        failed=1 && say "$name" failed "not reached within $within s (--within)"
        return 124
    fi
    bounded "$most" "$@" >"$out/$name.log" 2>&1
    code=$?
    ended "$name" "$code" "$most" "$started"
    return $code
}
# ended NAME CODE MOST STARTED: the line of a stage that has a log.
ended() {
    took=$(($(date +%s) - $4))
    case $2 in
        0) say "$1" ok "$took s" ;;
        124 | 137) failed=1 && say "$1" failed "not done after $3 s (--limit, --within)" ;;
        *) failed=1 && say "$1" failed "exit $2 after $took s: $(grep -m1 '^error: ' "$out/$1.log" || tail -n 1 "$out/$1.log")" ;;
    esac
}
# Whether anything asked for runs on a card of NVIDIA's: without one the stages of the kernels have nothing to do.
on_card() {
    case ,$providers, in *,cuda,* | *,tensorrt,* | *,tensorrt-rtx,*) return 0 ;; *) return 1 ;; esac
}
# The tests that run on a card: what is around the kernels, and each of them against its CPU twin.
kernel_tests="card:: latents:: pictures:: similarity::"

# The full-size model takes a minute or more of the CPU alone: in the background, while the stages before it use the card.
made=$kept/models/sd-turbo-random-$vae-$dtype-$attention
if wanted model && [ -z "$model" ]; then
    if [ -e "$made/model_index.json" ]; then
        say model ok "made before"
    elif ! command -v python3 >/dev/null; then
        failed=1
        say model failed "there is no python3"
    else
        # What the machine lacks of Python comes with the pieces; what it has is its own.
        mkdir -p "$kept/models" "$kept/site"
        for wheel in "$tree"/wheels/*.whl; do
            package=${wheel##*/}
            package=${package%%-*}
            python3 -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$package') is None)" 2>/dev/null \
                || python3 -m zipfile -e "$wheel" "$kept/site"
        done
        lost=$(PYTHONPATH=$kept/site python3 -c 'import importlib.util
names = "torch transformers onnx safetensors numpy diffusers importlib_metadata regex requests filelock huggingface_hub PIL".split()
print(*[name for name in names if importlib.util.find_spec(name) is None])' 2>&1)
        if [ -n "$lost" ]; then
            failed=1
            say model failed "Python lacks: $lost"
        elif ! making_most=$(seconds "$making_limit"); then
            failed=1
            say model failed "not reached within $within s (--within)"
        else
            making_started=$(date +%s)
            PYTHONPATH=$kept/site HF_HUB_OFFLINE=1 timeout -k 10 "$making_most" python3 "$tree/tools/gpu/full_pack.py" "$made" \
                --vae "$vae" --dtype "$dtype" --attention "$attention" >"$kept/model.log" 2>&1 &
            making=$!
        fi
    fi
fi

if wanted doctor; then
    if on_card; then
        lost=""
        for library in libcudart libcublas libcublasLt libcufft libcurand libcudnn libnvrtc; do
            ls "$tree/ort/cuda/$library".so* >/dev/null 2>&1 || lost="$lost $library"
        done
        [ -z "$lost" ] || { failed=1 && say libraries failed "not found for CUDA $cuda:$lost (looked in $(echo $folders))"; }
    fi
    nvidia-smi >"$out/nvidia-smi.txt" 2>&1 || true
    # Its exit code is of everything that it checks, also of what nobody needs here.
    most=$(seconds) || most=1
    bounded "$most" "$binary" doctor --ort-lib "$tree/ort" --model "$tree/models/default" >"$out/doctor.log" 2>&1
    if grep -q '^ok  *ONNX Runtime' "$out/doctor.log"; then
        say doctor ok "see doctor.log"
    else
        failed=1
        say doctor failed "$(grep -m1 'ONNX Runtime' "$out/doctor.log" || echo 'see doctor.log')"
    fi
fi

if wanted kernels; then
    if ! on_card || [ ! -x "$tree/bin/kernels-test" ]; then
        say kernels skipped "no card is asked for, or the tests were not carried"
    else
        # The tests say that they are skipped where there is no card; here that is a failure.
        # shellcheck disable=SC2086 # several
        LIVEDIFFUSION_NEEDS_CARD=1 PROPTEST_CASES=${PROPTEST_CASES:-32} stage kernels "$tree/bin/kernels-test" $kernel_tests --nocapture \
            --test-threads 1 || true
    fi
fi

# replayed PROVIDER PRECISION: all golden cases in one start, through the host and with frames that stay on the card. Sets code and counts.
replayed() {
    started=$(date +%s)
    bounded "$most" "$binary" replay "$tree"/assets/goldens/cases/*.json --models "$tree/assets/goldens/models" --ort-lib "$tree/ort" \
        --provider "$1" --precision "$2" --gpu "$gpu" --json >"$out/$what.json" 2>"$out/$what.log"
    code=$?
    cases=$(ls "$tree"/assets/goldens/cases/*.json | wc -l)
    good=$(grep -c '^  "passed": true' "$out/$what.json")
    counts="$1 in $2: $good of $cases cases in $(($(date +%s) - started)) s"
    case $1 in
        cuda | tensorrt*)
            # Those that the card's frame path can take have its figures.
            there=$(grep -c '^  "on_card": {$' "$out/$what.json")
            there=$((there - $(grep -c '^    "left_out"' "$out/$what.json")))
            counts="$counts, $there of them also with frames that stay on the card"
            # What users run there would not have been looked at.
            [ "$there" -gt 0 ] || [ "$code" != 0 ] || code=1
            ;;
    esac
}
# parity PROVIDER PRECISION: whether they pass, and a line in the summary.
parity() {
    what=parity-$1-$2
    : >"$out/$what.json" >"$out/$what.log"
    # Both together are one stage.
    if ! most=$(seconds $(((limit + 1) / 2))); then
        failed=1 && say parity failed "$1 in $2: not reached within $within s (--within)"
        return
    fi
    # TensorRT, for RTX too, takes TF32 for f32 by itself, and ONNX Runtime has no option against it.
    case $what in parity-tensorrt*-f32) export NVIDIA_TF32_OVERRIDE=0 ;; *) unset NVIDIA_TF32_OVERRIDE ;; esac
    replayed "$1" "$2"
    if [ "$code:$what" = 1:parity-cuda-f32 ] && most=$(seconds $(((limit + 1) / 2))); then
        # Where cuDNN has no other plan, ONNX Runtime takes one in TF32 in spite of its option: then these pass.
        first=$counts what=$what-without-tf32
        export NVIDIA_TF32_OVERRIDE=0
        replayed "$1" "$2"
        counts="$first; with NVIDIA_TF32_OVERRIDE=0 $good of $cases" code=1 what=parity-cuda-f32
    fi
    unset NVIDIA_TF32_OVERRIDE
    case $code in
        0) say parity ok "$counts" ;;
        124 | 137) failed=1 && say parity failed "$counts: not done after $most s (--limit, --within)" ;;
        *) failed=1 && say parity failed "$counts: $(grep -m1 '^error: ' "$out/$what.log" || echo "exit $code")" ;;
    esac
}
if wanted parity; then
    for provider in $(echo "$providers" | tr , ' '); do
        parity "$provider" f32
    done
fi

# The model was made since the start.
if [ -n "$making" ]; then
    wait "$making"
    code=$?
    cp "$kept/model.log" "$out/model.log"
    making=""
    ended model "$code" "$making_most" "$making_started"
fi
[ -n "$model" ] || model=$made

# measure NAME COMMAND ARGUMENTS...: a measurement of `livediffusion bench` on each provider. What it has no meaning for is passed over.
measure() {
    measured=$1 command=$2
    shift 2
    if [ ! -d "$model" ]; then
        failed=1
        say "$measured" failed "there is no model $model: the stage model makes it, or name one by --model"
        return
    fi
    for provider in $(echo "$providers" | tr , ' '); do
        more=""
        case $measured-$provider in
            # Only ONNX Runtime's CUDA provider can capture a network's kernels.
            bench-graphs-cuda) more=--cuda-graph ;;
            bench-graphs-* | bench-apart-cpu) continue ;;
            # Options of that provider.
            bench-last-cuda) more=--channels-last ;;
            bench-search-cuda) more="--cudnn-search heuristic" ;;
            bench-last-* | bench-search-*) continue ;;
            # That for CUDA 12 waits for every graph.
            bench-apart-cuda) [ "$cuda" != 13 ] || more=--cuda-graph ;;
        esac
        # shellcheck disable=SC2086 # the arguments are meant to be split
        stage "$measured-$provider" "$binary" bench "$command" --model "$model" --ort-lib "$tree/ort" --provider "$provider" \
            --gpu "$gpu" --size "$size" --record "$out/record" "$@" $more || true
        [ ! -s "$out/$measured-$provider.log" ] || cat "$out/$measured-$provider.log"
    done
}
# shellcheck disable=SC2086 # the arguments are meant to be split
if wanted bench; then measure bench-gpu gpu $bench; fi

if wanted parity; then
    for provider in $(echo "$providers" | tr , ' '); do
        # Those have no such arithmetic, or no word for it.
        case $provider in openvino | coreml) ;; *) parity "$provider" f16 ;; esac
    done
fi

# The table again with the networks' kernels captured, with encoder and decoder in streams of their own, with channels last and with
# convolutions by rule: whether it pays is asked.
# shellcheck disable=SC2086 # the arguments are meant to be split
if wanted graphs; then measure bench-graphs gpu --brief $bench; fi
# shellcheck disable=SC2086 # the arguments are meant to be split
if wanted apart; then measure bench-apart gpu --brief --vae-streams $bench; fi
# shellcheck disable=SC2086 # the arguments are meant to be split
if wanted last; then measure bench-last gpu --brief $bench; fi
# shellcheck disable=SC2086 # the arguments are meant to be split
if wanted search; then measure bench-search gpu --brief $bench; fi
# What each network does of it; `bench gpu` has all of them together.
if wanted roofline; then measure bench-roofline roofline; fi

if wanted sanitize; then
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
    if ! on_card || [ ! -x "$tree/bin/kernels-test" ] || [ -z "$sanitizer" ]; then
        say sanitize skipped "no card is asked for, the tests were not carried, or there is no compute-sanitizer"
    else
        # What they would find is found without a card too, by running NVRTC's code: they get what time there is left, none of them all.
        [ "$limit" -le 120 ] || limit=120
        for tool in memcheck racecheck initcheck synccheck; do
            before=$failed
            # A few cases of each property: every launch takes long under it.
            # shellcheck disable=SC2086 # several
            LIVEDIFFUSION_NEEDS_CARD=1 PROPTEST_CASES=8 stage "sanitize-$tool" "$sanitizer" --tool "$tool" --error-exitcode 9 \
                "$tree/bin/kernels-test" $kernel_tests --test-threads 1 || true
            if grep -q 'Device not supported' "$out/sanitize-$tool.log"; then
                say sanitize skipped "compute-sanitizer does not take this machine's card"
                failed=$before
                break
            fi
        done
    fi
fi
echo "found: $out and $out.tar.gz"
exit "$failed"
