#!/bin/sh
# Makes a machine without a card look as if it had one that does nothing: FOLDER/driver with the driver of the kernels' tests, FOLDER/cuda with
# libraries that stand for CUDA's and TensorRT's, and the real NVRTC, FOLDER/ort with the pinned ONNX Runtime for that CUDA (fetched, 0.25 GB).
#
#   tools/gpu/null/make.sh FOLDER [12|13]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
cache=${LIVEDIFFUSION_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/livediffusion}
[ $# -ge 1 ] || { echo "error: no folder is named" >&2 && echo "hint: $0 FOLDER [12|13]" >&2 && exit 2; }
folder=$1 cuda=${2:-13}
ort=$("$here/../ort.sh" "$cuda")
mkdir -p "$folder/driver" "$folder/cuda"

ln -sfn "$ort" "$folder/ort"

# In place of CUDA. NVRTC is the real one.
"$root/tools/setup/nvrtc.sh"
"$here/driver.sh" "$folder/driver"
python3 "$here/stubs.py" "$ort/libonnxruntime_providers_cuda.so" "$folder/cuda"
# With the names that NVIDIA's have inside: by these they are found once they are loaded. The reader of ONNX is all in the first.
c++ -std=c++17 -O1 -w -fPIC -shared -Wl,-soname,libnvinfer.so.10 "$here/tensorrt.cpp" -o "$folder/cuda/libnvinfer.so.10"
cc -shared -Wl,-soname,libnvonnxparser.so.10 -Wl,--no-as-needed "$folder/cuda/libnvinfer.so.10" -o "$folder/cuda/libnvonnxparser.so.10"
for library in "$cache"/cuda/nvrtc-*/*; do
    ln -sf "$library" "$folder/cuda/"
done
