"""`--pixels device`: the tower's device decodes JPEGs and resizes; loader processes only read files and lay views out.

What a plain JPEG decoder would not read as PIL does (other formats, CMYK, images to be turned, files cut short) is
decoded by PIL in the loader processes, and only resized on the device.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.datasets import Reader
from featcache.datasets.manifest import SourceInfo, source_info
from featcache.errors import ConfigError, DataError
from featcache.views import Layout, Transform, decode, lay, plain_jpeg, resize_floats

TOGETHER = 32
"""JPEGs decoded in one call: on a GPU that is several times as fast as one by one."""


class Laid(NamedTuple):
    """An image and where its views lie, none of them drawn yet."""

    image: bytes | NDArray[np.uint8]
    """A plain JPEG file, or decoded pixels (height, width, 3)."""
    layouts: tuple[Layout, ...]


def laid(reader: Reader, path: str, numbers: Sequence[int], transform: Transform, seed: int) -> tuple[Laid, SourceInfo]:
    """An image of the reader's, ready for `drawn`. Raises DataError as reading it does."""
    data = reader.read_bytes(path)
    size, source = plain_jpeg(data, upright=reader.upright), source_info(data)
    image: bytes | NDArray[np.uint8] = data
    if size is None:
        decoded, source = reader.read(path)
        image, size = np.array(decoded), decoded.size
    return Laid(image, tuple(lay(size, transform, number=number, path=path, seed=seed) for number in numbers)), source


def drawn(images: Sequence[Laid], transform: Transform, device: torch.device) -> list[Tensor | DataError]:
    """Each image's views (v, size, size, 3), bytes on the device, or why there are none."""
    decoded = _decoded([one.image for one in images], device)
    return [
        pixels
        if isinstance(pixels, DataError)
        else torch.stack([_draw(pixels, each, transform) for each in one.layouts])
        for one, pixels in zip(images, decoded, strict=True)
    ]


def _draw(pixels: Tensor, layout: Layout, transform: Transform) -> Tensor:
    """One view (size, size, 3) of an image (3, height, width)."""
    if layout.cut:
        top, left, height, width = layout.box
        pixels = pixels[:, top : top + height, left : left + width]
    size, (left, top) = transform.size, layout.corner
    drawn = resize_floats(pixels, layout.resized, transform.interpolation)[:, top : top + size, left : left + size]
    return (drawn.flip(2) if layout.flip else drawn).permute(1, 2, 0)


def _decoded(images: Sequence[bytes | NDArray[np.uint8]], device: torch.device) -> list[Tensor | DataError]:
    """(3, height, width) bytes on the device, of each image."""
    decoded = iter(_decode_jpegs([image for image in images if isinstance(image, bytes)], device))
    return [
        next(decoded) if isinstance(image, bytes) else torch.from_numpy(image).to(device).permute(2, 0, 1)
        for image in images
    ]


def _decode_jpegs(files: Sequence[bytes], device: torch.device) -> list[Tensor | DataError]:
    """Together where all of them decode; else each alone, and by PIL what will not."""
    try:
        from torchvision.io import ImageReadMode, decode_jpeg  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError(
            f"--pixels device needs torchvision.io.decode_jpeg, which is not in this torchvision ({error}); leave "
            "--pixels out, or use --pixels torch"
        ) from error

    def together(some: Sequence[bytes]) -> list[Tensor | DataError]:
        encoded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in some]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torchvision 0.29 sends its users to torchcodec
            return list(decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device))

    def alone(data: bytes) -> Tensor | DataError:
        with suppress(RuntimeError):
            return together([data])[0]
        try:
            return torch.from_numpy(np.array(decode(data))).to(device).permute(2, 0, 1)
        except DataError as error:
            return error

    with suppress(RuntimeError):
        return together(files) if files else []
    return [alone(data) for data in files]
