#!/bin/sh
# Packs what a measurement on a bare machine with an NVIDIA card needs into pieces that can be carried there: the binary without
# GStreamer, ONNX Runtime for the card, the tests of the CUDA kernels, the golden cases, the default pack, and what makes a
# full-size model there. `run.sh`, which lies beside the pieces, does the rest; it needs no network.
#
#   tools/gpu/pack.sh [--out FOLDER] [--cuda 12|13] [--piece MIB] [--ort FOLDER] [--binary FILE] [--no-kernels]
#
#   --out FOLDER    where the pieces go, which must not hold any (out/gpu)
#   --cuda 12|13    the CUDA that the machine's libraries are of (13)
#   --piece MIB     largest piece (20)
#   --ort FOLDER    an ONNX Runtime of your own in place of the pinned one
#   --binary FILE   a binary of your own in place of the one that is built here
#   --no-kernels    without the tests of the kernels
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=$root/out/gpu cuda=13 piece=20 ort="" binary="" kernels=yes

fail() {
    echo "error: $1" >&2
    echo "hint: $2" >&2
    exit "${3:-2}"
}
while [ $# -gt 0 ]; do
    case $1 in
        --no-kernels) kernels="" ;;
        --out | --cuda | --piece | --ort | --binary)
            [ $# -ge 2 ] || fail "$1 needs a value" "sed -n 2,16p $0 lists the options"
            case $1 in
                --out) out=$2 ;; --cuda) cuda=$2 ;; --piece) piece=$2 ;; --ort) ort=$2 ;; --binary) binary=$2 ;;
            esac
            shift
            ;;
        *) fail "unknown option $1" "sed -n 2,16p $0 lists the options" ;;
    esac
    shift
done
case $piece in '' | *[!0-9]* | 0*) fail "--piece $piece is no number of MiB" "--piece 20" ;; esac
[ -f "$here/../setup/cuda-$cuda.txt" ] || fail "there is no pinned ONNX Runtime for CUDA $cuda" "--cuda 12 or 13"
[ ! -e "$out/pieces.txt" ] || fail "$out holds pieces already" "remove it, or give another --out"

mkdir -p "$out"
work=$(mktemp -d "$out/.pack-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
tree=$work/tree
mkdir -p "$tree/bin" "$tree/ort" "$tree/wheels" "$tree/tools/gpu" "$tree/assets" "$tree/models"

download() {
    to=$1 requirement=$2
    shift 2
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
        --dest "$to" --requirement "$requirement" "$@"
}

# The binary. What was built before stays what it was: it links GStreamer, and people start it.
if [ -z "$binary" ]; then
    commit=$(git -C "$root" rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
    [ -z "$(git -C "$root" status --porcelain --untracked-files=no 2>/dev/null)" ] || commit=$commit-dirty
    built=${CARGO_TARGET_DIR:-$root/target}/release/livediffusion
    [ ! -e "$built" ] || cp -p "$built" "$work/whole"
    LIVEDIFFUSION_COMMIT=$commit ${CARGO:-cargo} build --manifest-path "$root/Cargo.toml" --release --locked --quiet \
        --package livediffusion --no-default-features
    cp "$built" "$tree/bin/livediffusion"
    [ ! -e "$work/whole" ] || cp -p "$work/whole" "$built"
else
    cp "$binary" "$tree/bin/livediffusion"
fi
# A bare machine has the C library and the compiler's, and nothing else to count on.
if ldd "$tree/bin/livediffusion" | grep -vE 'linux-vdso|ld-linux|lib(c|m|dl|rt|pthread|gcc_s)\.so'; then
    fail "the binary links what a bare machine lacks" "build it with --no-default-features" 1
fi
if [ -n "$kernels" ]; then
    test=$(${CARGO:-cargo} test --manifest-path "$root/Cargo.toml" --locked --quiet --package livediffusion-kernels --test it \
        --no-run --message-format=json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
    [ -n "$test" ] || fail "cargo names no test of the kernels" "run it with --no-kernels, or see: cargo test -p livediffusion-kernels" 1
    cp "$test" "$tree/bin/kernels-test"
fi
strip --strip-debug "$tree"/bin/* 2>/dev/null || true

# ONNX Runtime: of its wheel what is loaded. CUDA and cuDNN are the machine's.
[ -n "$ort" ] || ort=$("$here/ort.sh" "$cuda")
ls "$ort"/libonnxruntime.so* >/dev/null 2>&1 || fail "$ort holds no libonnxruntime.so" "give --ort the folder that does"
for library in "$ort"/*.so*; do
    cp "$library" "$tree/ort/"
done
echo "$cuda" >"$tree/cuda"

download "$tree/wheels" "$here/wheels.txt"
cp -r "$root/tools/export" "$tree/tools/export"
cp -r "$root/assets/goldens" "$tree/assets/goldens"
cp -r "$root/models/default" "$tree/models/default"
cp "$here/full_pack.py" "$tree/tools/gpu/"
find "$tree" -name __pycache__ -prune -exec rm -rf {} +

# The pieces, and a list of them: a hash and a length each, and those of the whole.
tar -C "$tree" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf - . | gzip -n >"$work/whole.tar.gz"
hash() {
    sha256sum "$1" | cut -d' ' -f1
}
split -b "${piece}m" -d -a 3 "$work/whole.tar.gz" "$out/piece."
for file in "$out"/piece.*; do
    echo "$(hash "$file") $(wc -c <"$file") ${file##*/}"
done >"$work/pieces.txt"
echo "$(hash "$work/whole.tar.gz") $(wc -c <"$work/whole.tar.gz") whole" >>"$work/pieces.txt"
cp "$here/run.sh" "$out/run.sh"
# Last: without it the folder holds no whole set.
mv "$work/pieces.txt" "$out/pieces.txt"
cat "$out/pieces.txt"
echo "carry $out/run.sh, $out/pieces.txt and the pieces, some at a time if need be, and start run.sh beside them"
