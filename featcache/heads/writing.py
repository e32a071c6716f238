"""A head to a file whose ending says the format: `.safetensors`, or `.onnx`."""

from __future__ import annotations

from pathlib import Path

from featcache.errors import ConfigError, InputError
from featcache.heads.files import save_head
from featcache.heads.head import Head
from featcache.heads.onnx_files import check_packages, save_onnx

FORMATS = (".safetensors", ".onnx")


def write(path: Path, head: Head, *, with_tower: bool = False) -> float | None:
    """Write the head; returns how far onnxruntime's logits are from torch's, of the largest, where it is ONNX.

    Raises what `check_output` does, InputError where the disk refuses, DataError where the numbers are not usable.
    """
    check_output(path, with_tower=with_tower)
    if path.suffix.lower() == ".onnx":
        return save_onnx(path, head, with_tower=with_tower)
    save_head(path, head)
    return None


def check_output(path: Path, *, with_tower: bool) -> None:
    """Raises ConfigError for an ending or option that means nothing here, InputError for a folder that is not there."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path}: the ending says the format; use one of {', '.join(FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.absolute().parent}")
    if path.suffix.lower() == ".onnx":
        check_packages()
    elif with_tower:
        raise ConfigError(f"--with-tower is for an .onnx file; a head in {path.name} names the backbone it belongs to")
