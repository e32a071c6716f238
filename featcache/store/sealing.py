"""Seals: checksums over the bytes that HDF5 keeps none for.

HDF5's newest format has a checksum in each block of its metadata and, where asked, one on each chunk of an array. It
has none on an attribute of more than 4 KiB, on strings of variable length, or on an array in one piece. So one
attribute of a store is a checksum of the others, which opening compares at the cost of a few kilobytes whatever the
store's size; and a part, which is read whole anyway, ends in a checksum of all its bytes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import h5py
import numpy as np

SEAL = "seal"
_SUM_BYTES = 32


def seal_of(attrs: h5py.AttributeManager) -> str:
    """The checksum, in hex, of every attribute but the seal itself."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(set(attrs) - {SEAL}):
        value = np.asarray(attrs[name])
        digest.update(f"@{name} {value.dtype.str} {value.shape}\n".encode() + value.tobytes())
    return digest.hexdigest()


def append_sum(file: Path) -> None:
    """End the file in a checksum of all that is in it; HDF5 takes no notice of what follows its own last byte."""
    with file.open("r+b") as opened:
        digest = hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=_SUM_BYTES)).digest()
        opened.seek(0, 2)
        opened.write(digest)


def sound_bytes(file: Path) -> bytes | None:
    """What `append_sum` was told to protect; None where it is not as it was. Raises OSError where it does not read."""
    data = file.read_bytes()
    content, found = data[:-_SUM_BYTES], data[-_SUM_BYTES:]
    return content if hashlib.blake2b(content, digest_size=_SUM_BYTES).digest() == found else None
