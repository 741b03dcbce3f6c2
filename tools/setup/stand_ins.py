#!/usr/bin/env python3
"""Empty CUDA libraries for a torch that links to them, on a machine without a GPU.

torch loads them when it is imported and calls them only for a GPU. Every function that torch's own libraries leave
undefined, and that belongs to a library missing here, becomes one that returns cudaErrorNoDevice.
stand_ins.py ENVIRONMENT"""

import collections
import pathlib
import re
import subprocess
import sys
import tempfile

NO_DEVICE = 100
MISSING = re.compile(r"^lib(cu|nv|nccl)")
# Of functions that carry no version, those of these families are CUDA's.
FAMILIES = re.compile(r"^(__cuda|cu[A-Z]|cuda|cublas|cudnn|cufft|cufile|cupti|curand|cusolver|cusparse|nccl|nvml|nvrtc|nvshmem|nvtx)")


def lines(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def scan(library, needed, wanted, defined):
    """Notes what `library` needs: libraries, and functions as {library: {version: names}}."""
    for line in lines("readelf", "--dynamic", "--wide", library):
        found = re.search(r"\(NEEDED\).*\[(.+)\]", line)
        if found and MISSING.match(found[1]):
            needed.add(found[1])
    owner, source = {}, None
    for line in lines("readelf", "--version-info", "--wide", library):
        file = re.search(r"File: (\S+)", line)
        version = re.search(r"Name: (\S+)\s+Flags", line)
        source = file[1] if file else source
        if version:
            owner[version[1]] = source
    for line in lines("nm", "--dynamic", "--with-symbol-versions", library):
        *_, kind, symbol = line.split()
        name, _, version = symbol.replace("@@", "@").partition("@")
        if kind in "Uw":
            wanted[owner.get(version)][version].add(name)
        else:
            defined.add(name)


def build(folder, library, versions):
    """Compiles a library of functions that all return the same."""
    names = sorted({name for group in versions.values() for name in group if name.isidentifier()})
    code = "".join(f"long {name}(void) {{ return {NO_DEVICE}; }}\n" for name in names) or "int nothing;\n"
    script = "".join(
        f"{version} {{ global: {' '.join(name + ';' for name in sorted(group))} }};\n"
        for version, group in versions.items()
        if version
    )
    with tempfile.TemporaryDirectory() as work:
        source, map_file = pathlib.Path(work, "code.c"), pathlib.Path(work, "versions.map")
        source.write_text(code)
        map_file.write_text(script)
        command = ["cc", "-shared", "-fPIC", "-fno-builtin", "-w", str(source), "-o", str(folder / library)]
        command.append(f"-Wl,-soname,{library}")
        if script:
            command.append(f"-Wl,--version-script={map_file}")
        subprocess.run(command, check=True)


def main():
    torch = next(pathlib.Path(sys.argv[1]).glob("lib/python3*/site-packages/torch"))
    needed, defined = {"libnvrtc-builtins.so.13", "libnvJitLink.so.13"}, set()
    wanted = collections.defaultdict(lambda: collections.defaultdict(set))
    for library in [*torch.glob("lib/lib*.so*"), *torch.glob("_C*.so")]:
        scan(str(library), needed, wanted, defined)
    # Functions without a version go into the runtime library, where the loader finds them as well as anywhere.
    loose = {name for name in wanted[None][""] if FAMILIES.match(name)} - defined
    for library in needed:
        versions = dict(wanted.get(library, {}))
        if library.startswith("libcudart"):
            versions[""] = versions.get("", set()) | loose
        build(torch / "lib", library, versions)


main()
