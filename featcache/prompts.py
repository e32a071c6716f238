"""Text sets: prompts, their embeddings one row a sentence, and the classifier weights made from them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ConfigError, DataError

DEFAULT = "default"
"""The text set of a data set's single template, or of an import's text features."""


@dataclass(frozen=True, kw_only=True)
class TextSet:
    """T sentences about C classes and their raw embeddings."""

    embedding: NDArray[np.float32]
    """(T, D) raw, one row a sentence."""
    label: NDArray[np.int32]
    """(T,) the class each sentence describes."""
    template: NDArray[np.int32]
    """(T,) which of `templates` made the sentence."""
    templates: tuple[str, ...]
    """(P,) with `{}` where the class name goes."""
    origin: str
    """Digest of the text tower and the sentences it encoded, or of the file they were imported from."""

    @property
    def digest(self) -> str:
        """SHA-256 of everything in the set."""
        digest = hashlib.sha256("\0".join((self.origin, *self.templates)).encode())
        for array in (self.embedding, self.label, self.template):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def sentences(classes: tuple[str, ...], templates: tuple[str, ...]) -> list[tuple[int, int, str]]:
    """(class, template, sentence) of every class in every template, class by class."""
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigError(f"a template holds {{}} exactly once, for the class name; got {template!r}")
    return [
        (label, index, template.format(name))
        for label, name in enumerate(classes)
        for index, template in enumerate(templates)
    ]


def classifier(text: TextSet, num_classes: int) -> NDArray[np.float32]:
    """(C, D) unit rows: each sentence normalised, averaged over its class, normalised again.

    Radford et al. 2021, section 3.1.4 (prompt ensembling). Raises DataError for a class without a sentence.
    """
    unit = text.embedding / np.linalg.norm(text.embedding, axis=1, keepdims=True)
    total = np.zeros((num_classes, unit.shape[1]), dtype=np.float32)
    np.add.at(total, text.label, unit)
    norm = np.linalg.norm(total, axis=1, keepdims=True)
    if not (norm > 0).all():
        raise DataError(
            f"{int((norm == 0).sum())} classes have no sentence in the text set, class {int(norm.argmin())} first"
        )
    weights: NDArray[np.float32] = total / norm
    return weights
