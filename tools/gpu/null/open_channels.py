"""Leaves the channels of a network's pictures and latents open, under a name, as older exporters do: open_channels.py MODEL..."""

import pathlib
import sys

# Fields of the messages on the way: model, graph, input or output, its type, tensor, shape.
GRAPH, PORTS, WAY = 7, (11, 12), (2, 1, 2)
NAMED = bytes((0x12, 12)) + b"num_channels"


def varint(number):
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def fields(message):
    """Number, kind and content of each field, in order; of what has a length that is what it holds."""
    at = 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = number()
        kind = key & 7
        if kind == 0:
            content = varint(number())
        else:
            length = number() if kind == 2 else {1: 8, 5: 4}[kind]
            content = message[at : at + length]
            at += length
        yield key >> 3, kind, content


def changed(message, change):
    """The message with each field that has a length as `change` makes it of its number and what it holds."""
    out = bytearray()
    for field, kind, content in fields(message):
        if kind == 2:
            content = change(field, content)
            content = varint(len(content)) + content
        out += varint(field << 3 | kind) + content
    return bytes(out)


def inside(way, change):
    """A change of what lies behind those fields."""
    if not way:
        return change
    return lambda content: changed(content, lambda field, inner: inside(way[1:], change)(inner) if field == way[0] else inner)


def opened(shape):
    """A shape of four sides with a name for the second."""
    sides = [content for field, _, content in fields(shape) if field == 1]
    if len(sides) == 4:
        sides[1] = NAMED
    return b"".join(b"\x0a" + varint(len(side)) + side for side in sides)


def main():
    for path in map(pathlib.Path, sys.argv[1:]):
        ports = lambda field, inner: inside(WAY, opened)(inner) if field in PORTS else inner
        graph = lambda field, inner: changed(inner, ports) if field == GRAPH else inner
        path.write_bytes(changed(path.read_bytes(), graph))


if __name__ == "__main__":
    main()
