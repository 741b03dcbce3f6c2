"""Reads Qt's binary resource files (`.rcc`), in which some Debian packages keep their photographs."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

COMPRESSED, DIRECTORY, ZSTD = 1, 2, 4


def files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Every file within: its path and its bytes. Those packed by Zstandard are left out."""
    raw = path.read_bytes()
    magic, version, tree, data, names = struct.unpack_from(">4sIIII", raw)
    if magic != b"qres" or not 1 <= version <= 3:
        raise ValueError(f"{path}: not a Qt resource file of version 1 to 3")
    node = 14 if version == 1 else 22

    def name(offset: int) -> str:
        (length,) = struct.unpack_from(">H", raw, names + offset)
        start = names + offset + 6
        return raw[start : start + 2 * length].decode("utf-16-be")

    def walk(index: int, folder: str) -> Iterator[tuple[str, bytes]]:
        at = tree + node * index
        where, flags = struct.unpack_from(">IH", raw, at)
        own = name(where) if index else ""
        if flags & DIRECTORY:
            count, first = struct.unpack_from(">II", raw, at + 6)
            for child in range(first, first + count):
                yield from walk(child, f"{folder}{own}/" if own else folder)
        elif not flags & ZSTD:
            (offset,) = struct.unpack_from(">I", raw, at + 10)
            (length,) = struct.unpack_from(">I", raw, data + offset)
            content = raw[data + offset + 4 : data + offset + 4 + length]
            yield folder + own, zlib.decompress(content[4:]) if flags & COMPRESSED else content

    yield from walk(0, "")
