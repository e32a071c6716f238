"""A head as one safetensors file: tensors by name, everything else as JSON in its metadata. Loading runs no code.

    text (C, D)                  unit text weights, (C, 0) without any
    param.NAME                   what the method learnt, by its own names
    linear.weight (C, D), linear.bias (C,)     where the method allows it: logits = unit(image) weight^T + bias
    probe (3, C)                 the logits of `module.probe_rows`, by which a reader that computes otherwise is told
    metadata: format, head (JSON), digest (SHA-256 of the JSON and of every tensor)

The digest tells damage, not tampering. What an ill-meaning file can hold is bounded by size, and its numbers go through
the method of its name that is installed here, nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from featcache.digests import of_tensors
from featcache.errors import DataError, InputError
from featcache.heads.head import Encoder, Head
from featcache.heads.module import HeadModule, LinearHead, probe
from featcache.store.replacing import replacing
from featcache.store.spec import Tower, canonical_json

FORMAT = "featcache-head/1"
MAX_BYTES = 2**31
"""Of a file: the keys of Tip-Adapter on ImageNet, 16 shots, take a hundredth of it."""
MAX_TENSORS = 64
_PARAM = "param."
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.bool)
_TIMES = 1e-3
"""Of the largest logit: what another processor's rounding may make of the probe, and no other method does."""


def save_head(path: Path, head: Head, *, with_linear: bool = True) -> None:
    """Write the head, whole or not at all, with its linear form if it has one and `with_linear`.

    Raises InputError where the disk refuses, DataError for a useless head.
    """
    module = HeadModule(head)
    tensors = {"text": head.text, "probe": probe(head)}
    tensors |= {f"{_PARAM}{name}": value for name, value in head.params.items()}
    if with_linear and module.is_linear:
        linear = module.merged()
        tensors |= {"linear.weight": linear.get_buffer("weight"), "linear.bias": linear.get_buffer("bias")}
    # Clones: safetensors refuses tensors that share memory, as a method's may.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    text = canonical_json(_plain(head))
    metadata = {"format": FORMAT, "head": text, "digest": of_tensors(tensors, text)}
    with replacing(path) as temporary:
        # Not save_file, whose files nobody else may read.
        temporary.write_bytes(save(tensors, metadata))


def load_module(path: Path) -> HeadModule:
    """The head in a file, on the CPU, checked. Raises InputError's kin: one message, whatever is wrong with the file.

    Where the method's own file is not here (a method of the user's), the merged linear form stands in, if it is there.
    """
    metadata, tensors = _read(path)
    if metadata.get("format") != FORMAT:
        raise _no_head(path, f"its format is {metadata.get('format', 'not stated')!r}, not {FORMAT}")
    text = metadata.get("head", "")
    if metadata.get("digest") != of_tensors(tensors, text):
        raise _no_head(path, "its bytes differ from their checksum; copy or export it anew")
    try:
        head = _head(json.loads(text), tensors)
        _check_numbers(head, tensors)
    except (LookupError, TypeError, ValueError, RecursionError, AttributeError, OverflowError) as error:
        raise _no_head(path, f"{type(error).__name__}: {str(error)[:300]}") from error
    return _checked(path, head, tensors)


def _checked(path: Path, head: Head, tensors: Mapping[str, Tensor]) -> HeadModule:
    """The module of a head, once it has given for the probe what it gave when it was written."""
    from featcache import registry

    if head.predictor not in registry.known() and "linear.weight" in tensors:
        return HeadModule(head, LinearHead(tensors["linear.weight"], tensors["linear.bias"]))
    try:
        found = probe(head)
    except DataError as error:
        raise _no_head(path, str(error)) from error
    written = tensors["probe"]
    if (found - written).abs().max() > _TIMES * written.abs().max().clamp_min(1):
        raise DataError(
            f"{path} was written by featcache {head.provenance.get('featcache', 'of unknown version')}, whose "
            f"{head.predictor} computed other logits from it than the one installed here; export it anew, or install "
            "that version"
        )
    return HeadModule(head)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise _no_head(path, "it is not a file")
        if size > MAX_BYTES:
            raise _no_head(path, f"it has {size / 1e9:.1f} GB, and a head has at most {MAX_BYTES / 1e9:.1f}")
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if len(names) > MAX_TENSORS:
                raise _no_head(path, f"it holds {len(names)} tensors, and a head at most {MAX_TENSORS}")
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise InputError(
            f"there is no head at {path}; `featcache export ID -o {path}` writes one of a result"
        ) from None
    except InputError:
        raise
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, RuntimeError, MemoryError) as error:
        raise _no_head(path, " ".join(str(error).split())[:300]) from error


def _no_head(path: Path, why: str) -> DataError:
    return DataError(f"{path} is no head that featcache can use, or is damaged: {why}")


def _head(content: Any, tensors: Mapping[str, Tensor]) -> Head:
    encoder = dict(content["encoder"])
    tower = Tower(**{name: str(value) for name, value in encoder.pop("tower").items()})
    return Head(
        adapter=str(content["adapter"]),
        config=dict(content["config"]),
        predictor=str(content["predictor"]),
        fields=dict(content["fields"]),
        params={name.removeprefix(_PARAM): value for name, value in tensors.items() if name.startswith(_PARAM)},
        text=tensors["text"],
        logit_scale=float(content["logit_scale"]),
        classes=tuple(map(str, content["classes"])),
        encoder=Encoder(**{**encoder, "tower": tower, "dim": int(encoder["dim"])}),
        provenance=dict(content["provenance"]),
    )


def _check_numbers(head: Head, tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError for what cannot be a head's."""
    num_classes, dim = len(head.classes), head.encoder.dim
    shapes: dict[str, list[tuple[int, ...]]] = {
        "text": [(num_classes, dim), (num_classes, 0)],
        "probe": [(3, num_classes)],
    }
    if "linear.weight" in tensors:
        shapes |= {"linear.weight": [(num_classes, dim)], "linear.bias": [(num_classes,)]}
    for name, allowed in shapes.items():
        if tuple(tensors[name].shape) not in allowed:
            raise ValueError(f"{name} has the shape {tuple(tensors[name].shape)} where {allowed[0]} is due")
    for name, value in tensors.items():
        if value.dtype not in _DTYPES or not value.isfinite().all():
            raise ValueError(f"{name} holds what is no finite number ({value.dtype})")
    if not (math.isfinite(head.logit_scale) and num_classes >= 1 and 1 <= dim <= 2**20):
        raise ValueError(f"logit scale {head.logit_scale}, {num_classes} classes, width {dim}")
    if head.encoder.dtype not in ("float16", "float32") or head.encoder.norm not in ("raw", "unit"):
        raise ValueError(f"embeddings of {head.encoder.dtype}, {head.encoder.norm}")


def _plain(head: Head) -> dict[str, Any]:
    return {
        "adapter": head.adapter,
        "config": head.config,
        "predictor": head.predictor,
        "fields": head.fields,
        "logit_scale": head.logit_scale,
        "classes": list(head.classes),
        "encoder": asdict(head.encoder),
        "provenance": head.provenance,
    }
