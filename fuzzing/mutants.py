"""Damages real files as disks, networks and programs do: bits, lengths, ends, blocks, directories."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

_LENGTHS = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)
_HEAD_BYTES = 4096
"""Most headers are in the first bytes, where damage matters most."""


def flip_bits(content: bytearray, rng: np.random.Generator) -> None:
    for place in _places(content, rng, int(rng.integers(1, 20))):
        content[place] ^= 1 << int(rng.integers(8))


def write_lengths(content: bytearray, rng: np.random.Generator) -> None:
    """Put numbers that are typical for overflows where lengths may be."""
    for place in _places(content, rng, int(rng.integers(1, 6))):
        order, length = "<>"[rng.integers(2)], _LENGTHS[rng.integers(len(_LENGTHS))]
        content[place : place + 4] = struct.pack(f"{order}I", length)[: len(content) - place]


def cut(content: bytearray, rng: np.random.Generator) -> None:
    del content[int(rng.integers(len(content) + 1)) :]


def move_a_block(content: bytearray, rng: np.random.Generator) -> None:
    source, target = _places(content, rng, 2)
    size = int(rng.integers(1, 5000))
    block = content[source : source + size]
    content[target : target + len(block)] = block


def drop_a_block(content: bytearray, rng: np.random.Generator) -> None:
    (place,) = _places(content, rng, 1)
    del content[place : place + int(rng.integers(1, 5000))]


def change_a_tiff_directory(content: bytearray, rng: np.random.Generator) -> None:
    """Change type, count or value of entries in a file that is TIFF; flip bits in any other."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(content[:2]))
    if order is None or len(content) < 8:
        return flip_bits(content, rng)
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    if start + 2 > len(content):
        return flip_bits(content, rng)
    (count,) = struct.unpack_from(f"{order}H", content, start)
    for _ in range(int(rng.integers(1, 4))):
        place = start + 2 + 12 * int(rng.integers(count + 1)) + int(rng.choice([0, 2, 4, 8]))
        if place + 4 <= len(content):
            struct.pack_into(f"{order}I", content, place, int(rng.choice(_LENGTHS)))
    return None


MUTATIONS: tuple[Callable[[bytearray, np.random.Generator], None], ...] = (
    flip_bits,
    write_lengths,
    cut,
    move_a_block,
    drop_a_block,
    change_a_tiff_directory,
)


def mutant(content: bytes, rng: np.random.Generator) -> bytes:
    """Give a file's content with one or two kinds of damage."""
    damaged = bytearray(content)
    for _ in range(int(rng.integers(1, 3))):
        if damaged:
            MUTATIONS[rng.integers(len(MUTATIONS))](damaged, rng)
    return bytes(damaged)


def originals(folder: Path, largest_bytes: int) -> list[Path]:
    """List the files below a folder that are read and small enough to be damaged often."""
    from tem_pipeline.micrographs.reading import SUPPORTED_SUFFIXES

    files = (file for file in folder.rglob("*") if file.suffix.lower() in SUPPORTED_SUFFIXES)
    return sorted(file for file in files if file.is_file() and 0 < file.stat().st_size <= largest_bytes)


def _places(content: bytearray, rng: np.random.Generator, count: int) -> list[int]:
    reach = min(len(content), _HEAD_BYTES) if rng.random() < 0.7 else len(content)
    return [int(place) for place in rng.integers(max(1, reach), size=count)]
