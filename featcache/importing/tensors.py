"""Tensors saved by torch.save, read without ever running what a file may carry."""

from __future__ import annotations

import re
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.bounded import check_torch
from featcache.errors import DataError
from featcache.importing.common import file_digest, text_set
from featcache.prompts import TextSet

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class TensorRows:
    """The rows of a float tensor (N, D); one that is mapped from disk is read only where asked."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return (int(self.tensor.shape[0]), int(self.tensor.shape[1]))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The tensor's, or float32 for bfloat16, which numpy lacks."""
        return self.take(np.zeros(0, dtype=np.int64)).dtype

    def take(self, at: NDArray[np.int64]) -> NDArray[Any]:
        """(n, D) rows at these positions."""
        rows = self.tensor[torch.from_numpy(at)]
        return np.asarray((rows.float() if rows.dtype == torch.bfloat16 else rows).numpy())


def load_rows(file: Path) -> TensorRows:
    """The float tensor (N, D) of a file. Raises DataError for anything else."""
    tensor = load_matrix(file)
    return TensorRows(tensor)


def load_matrix(file: Path) -> Tensor:
    """The float matrix a file holds. Raises DataError for anything else."""
    tensor = _load(file)
    if tensor.dtype not in _FLOATS or tensor.ndim != 2:
        raise DataError(f"{file} must hold a matrix of floats; found {_words(tensor)}")
    return tensor


def load_labels(file: Path) -> NDArray[np.int64]:
    """(N,) class indices. Raises DataError for anything else, labels of several classes a row among them."""
    tensor = _load(file)
    if tensor.dtype in _INTEGERS and tensor.ndim == 2:
        raise DataError(f"{file} holds labels {tuple(tensor.shape)}: several classes a row cannot be fitted here")
    if tensor.dtype not in _INTEGERS or tensor.ndim != 1:
        raise DataError(f"{file} must hold one integer a row; found {_words(tensor)}")
    return np.asarray(tensor.to(torch.int64).numpy())


def load_one_hot(file: Path) -> tuple[NDArray[np.int64], int]:
    """(N,) class indices and C of a one-hot matrix (N, C). Raises DataError for any other."""
    tensor = _load(file)
    if tensor.ndim != 2 or tensor.is_complex() or 0 in tensor.shape:
        raise DataError(f"{file} must hold one-hot labels (rows, classes); found {_words(tensor)}")
    values = tensor.float()
    bad = ((values != 0).sum(dim=1) != 1) | (values.sum(dim=1) != 1)
    if bad.any():
        raise DataError(
            f"{file} must hold one-hot labels: a 1 and zeros in each row; {int(bad.sum())} rows are not, row "
            f"{int(bad.int().argmax())} first"
        )
    return np.asarray(values.argmax(dim=1).numpy()), int(tensor.shape[1])


def load_classifier(file: Path, num_classes: int, dim: int) -> TextSet:
    """The text set of a zero-shot classifier (D, C), classes as columns: the form in which peers keep it."""
    weights = load_matrix(file)
    if weights.shape != (dim, num_classes):
        raise DataError(
            f"{file} must hold a classifier ({dim}, {num_classes}), one column a class; found {_words(weights)}"
        )
    return text_set(weights.T.float().numpy(), num_classes, dim, digest=file_digest(file), what=str(file))


def _load(file: Path) -> Tensor:
    """The one dense tensor a file holds, on the CPU, mapped where torch can map it."""
    try:
        with file.open("rb") as opened:
            mapped = opened.read(4) == b"PK\x03\x04"  # torch maps only what it wrote as a zip, since 1.6
        check_torch(file)
        if mapped:
            _check_sums(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the kind of file; what matters is refused below
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError:
        raise DataError(f"there is no file {file}") from None
    except DataError:
        raise
    except Exception as error:  # a damaged or hostile file makes the reader trip over anything
        raise DataError(f"{file} is refused: {_reason(error)}; nothing in it was run") from error
    return _plain(loaded, file)


def _check_sums(file: Path) -> None:
    """Raises DataError where a record does not fit its checksum: torch itself does not look."""
    with zipfile.ZipFile(file) as archive:  # nothing in it is packed, as check_torch found
        damaged = archive.testzip()
    if damaged is not None:
        raise DataError(f"{file} is damaged: {damaged} in it does not fit its checksum")


def _plain(loaded: object, file: Path) -> Tensor:
    if not isinstance(loaded, Tensor):
        raise DataError(f"{file} must hold one tensor; found a {type(loaded).__name__}")
    if loaded.layout != torch.strided or loaded.device.type != "cpu" or loaded.is_quantized:
        raise DataError(f"{file} must hold a plain dense tensor; found {_words(loaded)}, {loaded.layout}")
    # A few bytes can claim to be terabytes by repeating them.
    if loaded.numel() * loaded.element_size() > loaded.untyped_storage().nbytes():
        raise DataError(f"{file} holds fewer numbers than its shape {tuple(loaded.shape)} claims")
    return loaded.detach()


def _reason(error: Exception) -> str:
    """Why, in few words: torch's own advice is to switch the safety off."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    if named:
        return f"it holds code or objects ({named[1]}), not only a tensor"
    first = str(error).strip().splitlines()
    return f"it does not read as a tensor saved by torch.save ({first[0][:160] if first else type(error).__name__})"


def _words(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
