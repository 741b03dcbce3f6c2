#!/usr/bin/env python3
"""Builds libraries that stand for CUDA's, cuBLAS's and cuDNN's in a folder, with every function that a provider asks for.

    stubs.py PROVIDER FOLDER      PROVIDER: libonnxruntime_providers_cuda.so, or libonnxruntime_providers_nv_tensorrt_rtx.so

Those of stubs.c are what they are there; all others return success. Needs nm, strings, readelf and a C compiler.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
# What each library's functions begin with; those of the last two are looked up by name at run time.
LIBRARIES = {
    "libcudart": r"(__)?cuda[A-Z]",
    "libcublas": r"cublas(?!Lt)[A-Z]",
    "libcublasLt": r"cublasLt[A-Z]",
    "libcurand": r"curand[A-Z]",
    "libcudnn": r"cudnn[A-Z]",
    "libcufft": r"cufft[A-Z]",
}
# Versions of libraries that the provider need not name.
USUAL = {"libcudnn": "9", "libcurand": "10"}


def said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(provider: str, folder: str) -> None:
    out = pathlib.Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    needed = dict(re.findall(r"\[(lib\w+)\.so\.(\d+)\]", said("readelf", "-d", provider)))
    cuda = int(needed["libcudart"])
    usual = USUAL | {"libcufft": "12" if cuda >= 13 else "11"}
    undefined = {line.split()[-1].partition("@")[0] for line in said("nm", "-D", "--undefined-only", provider).splitlines()}
    by_name = {word for word in said("strings", "-n", "6", provider).split() if re.fullmatch(r"(cudnn|cufft)[A-Z]\w+", word)}
    written = (HERE / "stubs.c").read_text()
    own = set(re.findall(r"^[\w* ]+?\*? ?\b(\w+)\(", written, re.MULTILINE))
    # The CUDA provider looks its cuDNN and cuFFT up at run time; TensorRT for RTX has neither.
    wanted = LIBRARIES if "libcublas" in needed else {library: LIBRARIES[library] for library in LIBRARIES if library in needed}
    for library, pattern in wanted.items():
        name = f"{library}.so.{needed.get(library) or usual[library]}"
        functions = sorted(function for function in undefined | by_name if re.match(pattern, function))
        rest = "".join(f'int {f}() {{ return trace("{f}", 0, 0), 0; }}\n' for f in functions if f not in own)
        with tempfile.TemporaryDirectory() as work:
            source, versions = pathlib.Path(work, "stubs.c"), pathlib.Path(work, "versions")
            source.write_text(written + rest)
            exported = f"global: {'; '.join(functions)}; " if functions else ""
            # The provider asks for symbols of a version that has the library's name. Others' functions stay inside.
            versions.write_text(f"{name} {{ {exported}local: *; }};\n")
            subprocess.run(
                ["cc", "-O1", "-fPIC", "-shared", "-w", f"-Wl,-soname,{name}", f"-Wl,--version-script={versions}", source, "-o", out / name],
                check=True,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
