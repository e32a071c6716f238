"""What a head says of images: decoded, brought to pixels and encoded as the ones it was fitted on."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from featcache import views
from featcache.backbones import Backbone
from featcache.errors import ConfigError, DataError, InputError
from featcache.extraction.batches import BatchEncoder
from featcache.heads.head import Encoder
from featcache.heads.module import HeadModule
from featcache.kept_memory import kept_memory
from featcache.ops import normalise

BATCH = 64
"""Views a forward pass, as in extraction: rows are then the same bit for bit."""
Source = str | Path | Image.Image


class Prediction(NamedTuple):
    """One class of one image."""

    number: int
    """Of the class, from 0."""
    name: str
    """Of the class."""
    probability: float
    """Softmax of the logits."""


class Said(NamedTuple):
    """What is said of one image, or why nothing is."""

    image: str
    predictions: list[Prediction]
    """Likeliest first; none where there is an error."""
    error: str = ""


class Predictor:
    """A head with its backbone, built. Raises ConfigError where the backbone is not what the head was fitted with."""

    def __init__(
        self,
        module: HeadModule,
        *,
        device: torch.device | None = None,
        backbone: str | None = None,
        weights: str | None = None,
        style: str | None = None,
        num_images: int = BATCH,
    ) -> None:
        encoder = module.head.encoder
        self.device = device or module.get_buffer("text").device
        self.module = module.to(self.device)
        self.backbone = backbone_of(encoder, backbone, weights)
        self.transform = transform_of(encoder, self.backbone, style)
        self._encode = BatchEncoder(self.backbone, self.transform, self.device, max(1, min(BATCH, num_images)))

    def classify(self, images: Sequence[Source], *, top: int = 1) -> Iterator[list[Prediction]]:
        """The `top` classes of each image, in order. Raises DataError for the first that does not decode."""
        for said in self.each(images, top=top):
            if said.error:
                raise DataError(f"{said.image}: {said.error}")
            yield said.predictions

    def each(self, images: Sequence[Source], *, top: int = 1) -> Iterator[Said]:
        """What is said of each image, in order; one that does not decode has its error in its place."""
        waiting: list[tuple[Source, NDArray[np.uint8] | DataError]] = []
        ready = 0
        with kept_memory(self.device):
            for item in self._pixels(images):
                waiting.append(item)
                ready += not isinstance(item[1], DataError)
                if ready == self._encode.batch_size:
                    yield from self._say(waiting, top)
                    waiting, ready = [], 0
            yield from self._say(waiting, top)

    def embed(self, pixels: Sequence[NDArray[np.uint8]]) -> Tensor:
        """(b, D) embeddings of at most a batch of views, rounded as a store rounds them."""
        encoder = self.module.head.encoder
        image = self._encode(pixels)
        if encoder.norm == "unit":
            image = normalise(image)
        return image.half().float() if encoder.dtype == "float16" else image

    def _say(self, items: Sequence[tuple[Source, NDArray[np.uint8] | DataError]], top: int) -> Iterator[Said]:
        pixels = [item for _, item in items if not isinstance(item, DataError)]
        chances = iter(self._chances(pixels) if pixels else ())
        for source, item in items:
            if isinstance(item, DataError):
                yield Said(_name(source), [], str(item))
            else:
                yield Said(_name(source), self._best(next(chances), top))

    def _chances(self, pixels: Sequence[NDArray[np.uint8]]) -> Tensor:
        """(b, C) probabilities."""
        return self.module.logits(self.embed(pixels)).softmax(dim=1).cpu()

    def _best(self, chances: Tensor, top: int) -> list[Prediction]:
        found = chances.topk(min(top, len(chances)))
        names = self.module.classes
        return [
            Prediction(index, names[index], chance)
            for index, chance in zip(found.indices.tolist(), found.values.tolist(), strict=True)
        ]

    def _pixels(self, images: Sequence[Source]) -> Iterator[tuple[Source, NDArray[np.uint8] | DataError]]:
        """Each image's pixels, in order, decoded side by side a little ahead."""
        ahead: deque[tuple[Source, Future[Any]]] = deque()
        with ThreadPoolExecutor(min(len(images) or 1, os.cpu_count() or 1)) as pool:
            for source in images:
                ahead.append((source, pool.submit(self._read, source)))
                if len(ahead) > 2 * self._encode.batch_size:
                    first, future = ahead.popleft()
                    yield first, future.result()
            for first, future in ahead:
                yield first, future.result()

    def _read(self, source: Source) -> NDArray[np.uint8] | DataError:
        try:
            image = source.convert("RGB") if isinstance(source, Image.Image) else self._decode(Path(source))
            pixels, _ = views.view(image, self.transform, number=0, path=_name(source), seed=0)
        except DataError as error:
            return error
        return pixels

    def _decode(self, path: Path) -> Image.Image:
        try:
            data = path.read_bytes()
        except (OSError, ValueError) as error:  # the latter for a name that holds a zero byte
            raise DataError(f"it cannot be read ({getattr(error, 'strerror', None) or error})") from error
        return views.decode(data, upright=bool(self.module.head.encoder.transform.get("upright")))


def backbone_of(encoder: Encoder, name: str | None = None, weights: str | None = None) -> Backbone:
    """The backbone that a head belongs to, or the one named, if it is the same. Raises ConfigError where it is not."""
    if encoder.imported and name is None:
        raise ConfigError(
            f"the head was fitted on imported embeddings ({encoder.backbone}), and how they were made is not known: "
            "say --backbone NAME, and --style for the preprocessing"
        )
    precision = encoder.tower.precision if encoder.tower.precision != "unknown" else "fp32"
    asked = f"{name or encoder.backbone}" + (f" with {weights}" if weights else "")
    try:
        backbone = Backbone(name or encoder.backbone, weights or (None if name else encoder.weights), precision)
        identity = backbone.identity
    except InputError as error:
        if name not in (None, encoder.backbone):
            raise ConfigError(
                f"the head was fitted on embeddings of {_words(encoder)}, and --backbone {name} is not to be had here "
                f"to compare with it: {error}; leave --backbone out to take the head's own"
            ) from error
        raise ConfigError(
            f"the head needs {_words(encoder)}, which is not to be had here: {error}; "
            "say where it is with --weights FILE"
        ) from error
    same = identity.dim == encoder.dim if encoder.imported else identity.tower == encoder.tower
    if not same:
        found = Encoder(**{**vars(encoder), "tower": identity.tower, "dim": identity.dim})
        raise ConfigError(
            f"the head was fitted on embeddings of {_words(encoder)}, but {asked} is {_words(found)} here: its answers "
            "would mean nothing; give the backbone it belongs to (--backbone, --weights), or fit a head for this one"
        )
    return backbone


def transform_of(encoder: Encoder, backbone: Backbone, style: str | None = None) -> views.Transform:
    """The preprocessing of the head's own images. Raises ConfigError where it is not known, or differs from `style`."""
    known = dict(encoder.transform)
    if encoder.imported:
        if style is None:
            raise ConfigError(
                f"the head was fitted on imported embeddings: say --style, one of {', '.join(views.STYLES)}"
            )
        identity = backbone.identity
        return views.Transform(
            style=style,
            size=identity.size,
            mean=identity.mean,
            std=identity.std,
            interpolation=identity.interpolation,
        )
    if style is not None and style != known["style"]:
        raise ConfigError(f"the head was fitted on images of style {known['style']}; leave --style {style} out")
    known.pop("upright", None)
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
    try:
        return views.Transform(**values)
    except TypeError as error:
        raise DataError(f"the head's preprocessing is not one that featcache knows: {error}") from error


def _words(encoder: Encoder) -> str:
    tower = encoder.tower
    return f"{tower.architecture} (checkpoint {tower.checkpoint[:12]}, {tower.precision}, width {encoder.dim})"


def _name(source: Source) -> str:
    return "image" if isinstance(source, Image.Image) else str(source)
