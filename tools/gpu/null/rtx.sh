#!/bin/sh
# NVIDIA's TensorRT for RTX, as `make setup-tensorrt-rtx` fetches it, on a machine that looks as if it had a card: it reads and compiles
# every network of the packs that the tests have, with the options that the program gives it. What it compiled is not run: its own CUDA
# runtime knows a real driver. Needs a mount namespace.
#
#   tools/gpu/null/rtx.sh [12|13]     the CUDA version (13). The plug-in is fetched (0.2 GB).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
. "$root/tools/setup/fetch.sh"
cuda=${1:-13}
# As root, or as root of a namespace of its own.
if unshare --mount true 2>/dev/null; then
    alone="unshare --mount"
elif unshare --user --map-root-user --mount true 2>/dev/null; then
    alone="unshare --user --map-root-user --mount"
else
    echo "skipped: TensorRT for RTX without a card takes a mount namespace, which is not allowed here"
    exit 0
fi
"$root/tools/setup/tensorrt-rtx.sh" "$cuda"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
mkdir -p "$work/driver" "$work/cuda" "$work/cache/ort"
"$here/driver.sh" "$work/driver"

# The folder of the cache, with a CUDA runtime that does nothing in place of its own.
pins=$root/tools/setup/tensorrt-rtx-$cuda.txt
name=tensorrt-rtx-$(pinned "$pins" onnxruntime)-$(pinned "$pins" "onnxruntime-ep-nv-tensorrt-rtx-cu$cuda")-cuda$cuda
folder=$cache/ort/$name
mkdir "$work/cache/ort/$name"
for library in "$folder"/*; do
    case ${library##*/} in libcudart.*) ;; *) ln -s "$library" "$work/cache/ort/$name/" ;; esac
done
python3 "$here/stubs.py" "$folder/libonnxruntime_providers_nv_tensorrt_rtx.so" "$work/cache/ort/$name"

# Built before the namespace begins. One test after the other, since they share a cache.
set -- cargo nextest run --locked --package livediffusion-onnx --lib --manifest-path "$root/Cargo.toml" --cargo-quiet -E 'test(/_on_rtx$/)'
"$@" --no-run
LD_LIBRARY_PATH=$work/driver LIVEDIFFUSION_CACHE=$work/cache LIVEDIFFUSION_NULL_RTX=1 LIVEDIFFUSION_CARD_CUDA=$cuda $alone sh -c '
    set -eu
    # ONNX Runtime finds cards by what is on the bus.
    mount -t tmpfs none /sys/bus/pci/devices
    card=/sys/bus/pci/devices/0000:01:00.0
    mkdir "$card"
    echo 0x030000 >"$card/class"
    echo 0x10de >"$card/vendor"
    echo 0x2684 >"$card/device"
    exec "$@"' sh "$@" --test-threads 1 --success-output final
