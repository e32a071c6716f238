"""Ways to spoil the inputs of tests/fuzz.py: at random, or cleverly, so that checksums are right all the same."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from typing import Any

import h5py
import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException

NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def mutated(data: bytes, generator: random.Random) -> bytes:
    """The bytes with one to eight things done to them."""
    spoilt = bytearray(data)
    for _ in range(generator.choice((1, 1, 1, 2, 3, 8))):
        at = generator.randrange(len(spoilt) + 1)
        match generator.randrange(7):
            case 0 if spoilt:
                spoilt[at % len(spoilt)] ^= 1 << generator.randrange(8)
            case 1 if spoilt:
                spoilt[at % len(spoilt)] = generator.randrange(256)
            case 2:
                del spoilt[at : at + generator.choice((1, 4, 64, 4096))]
            case 3:
                spoilt[at:at] = spoilt[at : at + generator.choice((1, 8, 512))]
            case 4:
                width, order = generator.choice((1, 2, 4, 8)), generator.choice(("little", "big"))
                number = generator.choice(NUMBERS) & ((1 << 8 * width) - 1)
                spoilt[at : at + width] = number.to_bytes(width, order)
            case 5:
                spoilt[at:at] = generator.randbytes(generator.choice((1, 16, 300)))
            case _:
                del spoilt[at:]
    return bytes(spoilt)


def resealed(data: bytes, generator: random.Random) -> bytes:
    """A store spoilt by HDF5's own means, so that its checksums are right: a forgery and no damage."""
    from featcache.store.sealing import SEAL, seal_of

    file = io.BytesIO(data)
    with h5py.File(file, "r+", libver="latest") as opened:
        names: list[str] = []
        opened.visit(names.append)
        for _ in range(generator.choice((1, 1, 2, 3))):
            _forge(opened, names, generator)
        text = seal_of(opened.attrs).encode()
        if SEAL in opened.attrs:
            opened.attrs.create(SEAL, np.array(text, dtype=h5py.string_dtype("utf-8", len(text))))
    return file.getvalue()


def _is_plain(opened: h5py.File, name: str) -> bool:
    """Whether it is there and can be forged from what it holds: no link to nowhere, no size forged before."""
    try:
        item = opened[name]
    except (KeyError, RuntimeError):  # a link, to nowhere or to itself
        return False
    return not isinstance(item, h5py.Dataset) or (item.nbytes < 1 << 26 and not item.dtype.hasobject)


def _forge(opened: h5py.File, names: list[str], generator: random.Random) -> None:
    name = generator.choice(names)
    if not _is_plain(opened, name) or generator.random() < 0.3:
        attribute = generator.choice(list(opened.attrs))
        value = generator.choice([0, -1, float("nan"), float("inf"), b"", b"[]", b"{}", b"\xff\xfe", b'{"draws": 3}'])
        whole = bytes(opened.attrs[attribute]) if isinstance(opened.attrs[attribute], np.bytes_) else b"{}"
        value = generator.choice([value, mutated(whole, generator)])
        kind = h5py.string_dtype("utf-8", max(1, len(value))) if isinstance(value, bytes) else None
        opened.attrs.create(attribute, np.array(value, dtype=kind), dtype=kind)
        return
    item = opened[name]
    if not isinstance(item, h5py.Dataset):
        del opened[name]
        return
    values, shape, kind = item[()], item.shape, item.dtype
    del opened[name]
    match generator.randrange(7):
        case 0:
            pass
        case 1:
            opened.create_dataset(name, shape=(1 << generator.randrange(50), *shape[1:]), dtype=kind, chunks=True)
        case 2:
            opened.create_dataset(name, data=values.reshape(-1))
        case 3:
            opened.create_dataset(name, data=np.zeros(shape, dtype=generator.choice(["f8", "i1", "u8", "S3", "f2"])))
        case 4:
            opened.create_dataset(name, data=[str(generator.random())], dtype=h5py.string_dtype())
        case 5:
            opened[name] = h5py.SoftLink(generator.choice(["/classes", "/nowhere", f"/{name}"]))
        case _:
            wild = np.frombuffer(generator.randbytes(values.nbytes), dtype=kind).reshape(shape)
            opened.create_dataset(name, data=wild)


def rezipped(data: bytes, generator: random.Random) -> bytes:
    """A zip whose members are spoilt and whose checksums are right."""
    out = io.BytesIO()
    packed = generator.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(out, "w", packed) as written:
        chosen = generator.choice(archive.namelist())
        for name in archive.namelist():
            member = archive.read(name)
            if name == chosen:
                head = generator.choice((128, 128, len(member)))  # headers are where the sizes are
                member = mutated(member[:head], generator) + member[head:]
            written.writestr(name, member)
    return out.getvalue()


def zips(data: bytes, generator: random.Random) -> bytes:
    return (rezipped if generator.random() < 0.7 and data[:2] == b"PK" else mutated)(data, generator)


def headed(data: bytes, generator: random.Random) -> bytes:
    head = generator.choice((80, 128, len(data)))
    return mutated(data[:head], generator) + data[head:]


def heads(data: bytes, generator: random.Random) -> bytes:
    """Spoilt, or a head of which one word says something else and whose checksum is right."""
    from safetensors.torch import load

    from featcache.digests import of_tensors

    if generator.random() < 0.3:
        return mutated(data, generator)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    said = header["__metadata__"]
    content = json.loads(said["head"])
    place = content
    while isinstance(inner := place[key := generator.choice(list(place))], dict) and inner and generator.random() < 0.8:
        place = inner
    place[key] = example(VALUES, generator)
    said["head"] = json.dumps(content)
    said["digest"] = of_tensors(load(data), said["head"])
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def archives(data: bytes, generator: random.Random) -> bytes:
    """Spoilt, or a tar whose headers are spoilt and whose checksums are right."""
    if data[257:262] != b"ustar" or generator.random() < 0.3:
        return mutated(data, generator)
    spoilt = bytearray(data)
    at = 512 * generator.randrange(len(spoilt) // 512)
    spoilt[at : at + 512] = mutated(bytes(spoilt[at : at + 512]), generator).ljust(512, b"\0")[:512]
    if generator.random() < 0.5:
        spoilt[at : at + 20] = generator.choice([b"../../outside", b"/abs/olute", b"a/../../x", b"\xff\xfe"]).ljust(
            20, b"\0"
        )
    header = bytes(spoilt[at : at + 148]) + b" " * 8 + bytes(spoilt[at + 156 : at + 512])
    spoilt[at + 148 : at + 156] = b"%06o\0 " % sum(header)
    return bytes(spoilt)


def pngs(data: bytes, generator: random.Random) -> bytes:
    """Spoilt, or a PNG of which one chunk is spoilt and its checksum right."""
    if data[:4] != b"\x89PNG" or generator.random() < 0.4:
        return mutated(data, generator)
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append(data[at + 4 : at + 8 + length])
        at += 12 + length
    chosen = generator.randrange(len(chunks))
    chunks[chosen] = chunks[chosen][:4] + mutated(chunks[chosen][4:], generator)
    parts = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return data[:8] + b"".join(parts)


WORDS = st.sampled_from(
    [
        "train",
        "val",
        "test",
        "path",
        "label",
        "split",
        "a/1.jpg",
        "../x.jpg",
        "/etc/passwd",
        "cat",
        "dog",
        "",
        "\0",
        "é",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
ENTRIES = st.lists(st.tuples(WORDS, st.integers(-1, 3), WORDS), max_size=5)
SPLITS = st.fixed_dictionaries({"train": ENTRIES | VALUES, "test": ENTRIES | VALUES}, optional={"val": ENTRIES})
TABLES = st.lists(st.lists(WORDS | st.text(max_size=6), max_size=4).map(",".join), max_size=6).map("\n".join)


def example(strategy: st.SearchStrategy[Any], generator: random.Random) -> Any:
    """One example that the generator decides."""
    found: list[Any] = []

    @settings(
        max_examples=1, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(strategy)
    def take(value: Any) -> None:
        found.append(value)

    try:
        seed(generator.randrange(1 << 32))(take)()
    except HypothesisException:
        return None
    return found[-1] if found else None
