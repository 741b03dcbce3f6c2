#!/bin/sh
# Puts a Triton server, which triton.sh starts, into the user's cache: CACHE/triton-VERSION/. It has the Python backend alone, and needs
# no GPU. Says nothing when it is there.
set -eu
here=$(dirname "$0")
. "$here/../setup/fetch.sh"
version=$(pinned "$here/triton.txt" nvidia-pytriton)
# Another list of packages is another folder's content.
ready=ready-$(cat "$here/triton.txt" "$0" | cksum | cut -d' ' -f1)
target=$cache/triton-$version
[ ! -e "$target/$ready" ] || exit 0

machine=$(uname -m)
if [ "$machine" != x86_64 ]; then
    echo "error: there is no pinned Triton server for $machine" >&2
    echo "hint: these tests need a machine with x86-64" >&2
    exit 3
fi
# The backend's stub is linked with Debian 12's Python, whose shared library comes apart from the interpreter.
if [ ! -x /usr/bin/python3.11 ] || ! /sbin/ldconfig -p | grep -q 'libpython3\.11\.so\.1\.0.*x86-64'; then
    echo "error: Triton's Python backend needs Python 3.11 and its shared library" >&2
    echo "hint: apt-get install python3.11 libpython3.11" >&2
    exit 3
fi

echo "fetching a Triton server (PyTriton $version, 91 MB)"
begin "$target"
download "$here/triton.txt" manylinux_2_35_x86_64 manylinux_2_28_x86_64 manylinux2014_x86_64
# The places of the files in the wheel stay: each finds its libraries from where it is. That of Python 3.13 is another stub's.
unzip -qo "$work"/nvidia_pytriton-*.whl 'nvidia_pytriton.libs/*' 'pytriton/tritonserver/bin/*' 'pytriton/tritonserver/backends/python/*' \
    -x 'nvidia_pytriton.libs/libpython3*' -d "$work/lib"
backend=$work/lib/pytriton/tritonserver/backends/python
unzip -qjo "$work"/nvidia_pytriton-*.whl 'pytriton/tritonserver/python_backend_stubs/3.11/*' -d "$backend"
chmod +x "$backend/triton_python_backend_stub" "$work/lib/pytriton/tritonserver/bin/tritonserver"
# The stub looks for packages in the system's folders and in its own alone, whatever the environment says.
unzip -qo "$work"/numpy-*.whl -x '*/tests/*' 'numpy/f2py/*' 'numpy/distutils/*' '*.a' '*.pyi' -d "$backend"
unzip -qo "$work"/onnxruntime-*.whl 'onnxruntime/__init__.py' 'onnxruntime/capi/*' -x '*/libonnxruntime.so*' -d "$backend"
PYTHONPATH=$backend /usr/bin/python3.11 -c 'import numpy, onnxruntime'
touch "$work/lib/$ready"
finish
