#!/bin/sh
# Rehearses `pack.sh` and `run.sh` without a card: pieces that are damaged, missing or come in two calls, and the whole measurement
# on the CPU, in an environment without GStreamer, without a PATH to speak of and without a network's use. A minute or two.
#
#   tools/gpu/test.sh [--binary FILE]     FILE: built without the feature media (built here otherwise)
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${LIVEDIFFUSION_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/livediffusion}
ort=$(ls -d "$cache"/ort/openvino-* "$cache"/ort/cpu-* 2>/dev/null | tail -n 1)
[ -n "$ort" ] || { echo "error: there is no ONNX Runtime in $cache" >&2 && echo "hint: make setup" >&2 && exit 3; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

wrong() {
    echo "FAIL: $1" >&2
    exit 1
}
# refused CODE TEXT COMMAND...: it ends with that code, one line of error that holds the text, and one of hint.
refused() {
    want=$1 text=$2
    shift 2
    code=0
    "$@" >"$work/stdout" 2>"$work/stderr" || code=$?
    [ "$code" = "$want" ] || wrong "exit $code, not $want: $* ($(cat "$work/stderr"))"
    [ "$(wc -l <"$work/stderr")" = 2 ] || wrong "not two lines: $(cat "$work/stderr")"
    sed -n 1p "$work/stderr" | grep -q "^error: .*$text" || wrong "no '$text' in: $(cat "$work/stderr")"
    sed -n 2p "$work/stderr" | grep -q '^hint: .' || wrong "no hint in: $(cat "$work/stderr")"
}

"$here/pack.sh" --out "$work/packed" --piece 8 --ort "$ort" --no-kernels "$@" >/dev/null
count=$(ls "$work/packed" | grep -c '^piece\.')
[ "$count" -ge 3 ] || wrong "only $count pieces"
[ -z "$(find "$work/packed" -name 'piece.*' -size +8192k)" ] || wrong "a piece is too large"
refused 2 "holds pieces already" "$here/pack.sh" --out "$work/packed"
refused 2 "unknown option" "$here/pack.sh" --nosuch

# A machine with next to nothing: what the script says that it needs.
mkdir "$work/bin" "$work/home"
for tool in sh sed cut tr cat cp mv rm mkdir ln ls grep date timeout tail tee dirname wc gzip tar sha256sum env; do
    ln -s "$(command -v "$tool")" "$work/bin/$tool"
done
bare() {
    env -i HOME="$work/home" PATH="$work/bin${python:+:$python}" "$@"
}
run() {
    bare sh "$work/packed/run.sh" --work "$work/there" --out "$work/found" "$@"
}
python=""
refused 2 "no stage" run --stages nosuch
refused 3 "no pieces.txt" run --pieces "$work/home"

# Two calls bring the pieces, and one of the first is damaged.
mkdir "$work/first" "$work/second"
cp "$work/packed/pieces.txt" "$work/first"
cp "$work/packed/pieces.txt" "$work/second"
cp "$work/packed/piece.000" "$work/packed/piece.001" "$work/first"
printf 'X' | dd of="$work/first/piece.001" bs=1 seek=100 conv=notrunc status=none
refused 4 "damaged: piece.001$" run --pieces "$work/first" --receive
cp "$work/packed/piece.001" "$work/first"
refused 4 "not here yet: piece.002" run --pieces "$work/first" --receive
for piece in "$work"/packed/piece.*; do
    case $piece in *.000 | *.001) ;; *) cp "$piece" "$work/second" ;; esac
done
run --pieces "$work/second" --receive >"$work/stdout" || wrong "the second call does not unpack"
tree=$(sed -n 's/^unpacked: //p' "$work/stdout")
cmp -s "$tree/models/default/unet/model.onnx" "$here/../../models/default/unet/model.onnx" || wrong "the model is another"
[ -z "$(ls "$work/there"/*/whole.tar.gz 2>/dev/null)" ] || wrong "the whole is kept twice"

# What needs video says so.
refused 3 "needs GStreamer" bare "$tree/bin/livediffusion" run --input test:// --output fakesink -v
refused 3 "needs GStreamer" bare "$tree/bin/livediffusion" webcam
refused 3 "needs GStreamer" bare "$tree/bin/livediffusion" bench latency --fps 5

# The measurement, of two cases and the smallest run.
keep=0
for case in "$tree"/assets/goldens/cases/*.json; do
    keep=$((keep + 1))
    [ "$keep" -le 2 ] || rm "$case"
done
run --stages doctor,kernels,parity,bench,sanitize --providers cpu --model "$tree/models/default" --size 64x64 \
    --bench "--steps 1 --cfg none --rounds 1 --frames 2" >"$work/stdout" 2>&1 || wrong "the measurement fails: $(cat "$work/stdout")"
for line in 'doctor  *ok' 'kernels  *skipped' 'parity  *ok  *cpu in f32: 2 of 2 cases' 'parity  *ok  *cpu in f16: 2 of 2 cases' 'bench-gpu-cpu  *ok' 'sanitize  *skipped'; do
    grep -q "^$line" "$work/found/summary.txt" || wrong "no '$line' in: $(cat "$work/found/summary.txt")"
done
grep -q 'picture to picture' "$work"/found/record/*/*.csv || wrong "nothing was recorded"
# What is not reached in time is said to be.
code=0
run --stages doctor,parity,bench --providers cpu --model "$tree/models/default" --size 64x64 --within 0 >"$work/stdout" 2>&1 || code=$?
[ "$code" = 1 ] || wrong "exit $code where there was no time"
for line in 'parity  *failed  *cpu in f16: not reached' 'bench-gpu-cpu  *failed  *not reached within 0 s'; do
    grep -q "^$line" "$work/found/summary.txt" || wrong "no '$line' in: $(cat "$work/found/summary.txt")"
done
# A stage takes a third of the time at most.
code=0
run --stages bench --providers cpu --model "$tree/models/default" --size 64x64 --within 6 --bench "--rounds 20 --frames 10000" \
    >"$work/stdout" 2>&1 || code=$?
[ "$code" = 1 ] || wrong "exit $code where a stage took too long"
grep -q '^bench-gpu-cpu  *failed  *not done after [12] s' "$work/found/summary.txt" || wrong "$(cat "$work/found/summary.txt")"
# What fails is in the summary and in the exit code.
code=0
run --stages bench --providers cuda --model "$tree/models/default" >"$work/stdout" 2>&1 || code=$?
[ "$code" = 1 ] || wrong "exit $code where there is no CUDA"
grep -q '^bench-gpu-cuda  *failed  *exit 3' "$work/found/summary.txt" || wrong "$(cat "$work/found/summary.txt")"

# The model, where the exporter's Python is set up.
python=$cache/export/bin
if [ -x "$python/python3" ]; then
    sed 's/"\$tree\/tools\/gpu\/full_pack.py" "\$made"/& --tiny/' "$work/packed/run.sh" >"$work/packed/tiny.sh"
    bare sh "$work/packed/tiny.sh" --work "$work/there" --out "$work/found" --stages model,bench --providers cpu --size 64x64 \
        --dtype f32 --bench "--steps 1 --cfg none --rounds 1 --frames 2" >"$work/stdout" 2>&1 || wrong "$(cat "$work/stdout" "$work/found/model.log")"
    grep -q '^bench-gpu-cpu  *ok' "$work/found/summary.txt" || wrong "the model that was made does not run: $(cat "$work/stdout")"

    # One that takes long is made beside the other stages, no longer than there is time, and ends with the script.
    cat >"$tree/tools/gpu/full_pack.py" <<'EOF'
import os, pathlib, sys, time
print("making it", flush=True)
pathlib.Path(sys.argv[1]).with_name("process").write_text(str(os.getpid()))
time.sleep(100)
EOF
    rm -rf "$work/there"/*/models/*
    is_gone() {
        process=$(cat "$work/there"/*/models/process)
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            kill -0 "$process" 2>/dev/null || return 0
            sleep 0.2
        done
        return 1
    }
    code=0
    run --stages doctor,model,bench --providers cpu --size 64x64 --within 8 >"$work/stdout" 2>&1 || code=$?
    [ "$code" = 1 ] || wrong "exit $code where the model took too long"
    sed -n 1p "$work/found/summary.txt" | grep -q '^doctor' || wrong "the model kept doctor waiting: $(cat "$work/found/summary.txt")"
    for line in 'model  *failed  *not done after [1-8] s' 'bench-gpu  *failed  *there is no model'; do
        grep -q "^$line" "$work/found/summary.txt" || wrong "no '$line' in: $(cat "$work/found/summary.txt")"
    done
    grep -q '^making it' "$work/found/model.log" || wrong "the model's log is lost"
    is_gone || wrong "the model is made on after its time"
    rm "$work/there"/*/models/process
    # Not through a function: the process to be told has to be the script.
    env -i HOME="$work/home" PATH="$work/bin:$python" sh "$work/packed/run.sh" --work "$work/there" --out "$work/found" --stages model \
        >"$work/stdout" 2>&1 &
    script=$!
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        [ ! -s "$(echo "$work/there"/*/models/process)" ] || break
        sleep 0.5
    done
    kill "$script"
    code=0
    wait "$script" || code=$?
    [ "$code" = 130 ] || wrong "exit $code where it was stopped"
    is_gone || wrong "the model is made on after the script"
else
    echo "skipped: the model (tools/export/setup.sh sets its Python up)"
fi
echo "ok"
