"""A featcache method as a scikit-learn classifier: raw embeddings in, classes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from featcache import recipes, registry
from featcache.errors import ConfigError
from featcache.fits import Config, fit
from featcache.heads.head import Encoder, Head, head_of
from featcache.heads.module import HeadModule
from featcache.loading import present
from featcache.ops import class_sums, normalise
from featcache.shift import Fitted
from featcache.store.spec import Tower
from featcache.task import Task

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as missing:
    raise ConfigError("AdapterClassifier needs scikit-learn: pip install 'featcache[sklearn]'") from missing


class AdapterClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Any method that needs no text tower, on embeddings such as `store.arrays("train")` or `task.arrays()` give.

    What classes are like is told by `text`, unit rows in the order of `classes_`, such as `store.text_weights()`.
    Without it the class means of the training embeddings are the zero-shot weights. Logits hang on an embedding's
    direction, as everywhere in CLIP: two rows of which one is a multiple of the other are the same to it.

    >>> store = featcache.open("toy")
    >>> image, label = store.task(shots=8, seed=1).arrays()
    >>> classifier = featcache.AdapterClassifier("tip_adapter", text=store.text_weights(), logit_scale=40)
    >>> classifier.fit(image, label).score(*store.arrays("test")) > 0.5
    True
    """

    def __init__(
        self,
        adapter: str = "clip_adapter",
        *,
        text: ArrayLike | None = None,
        logit_scale: float = 100.0,
        config: Mapping[str, Any] | None = None,
        preset: str | None = None,
        epochs: int | None = None,
        lr: float | None = None,
        init_seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.adapter = adapter
        """The method's name (`featcache adapters ls`)."""
        self.text = text
        """(C, D) weights of the classes, or None for their means."""
        self.logit_scale = logit_scale
        """The multiplier of cosines, already exponentiated."""
        self.config = config
        """The method's fields, where not as its file has them."""
        self.preset = preset
        """The training recipe; the method's own when None."""
        self.epochs = epochs
        """In place of the recipe's."""
        self.lr = lr
        """In place of the recipe's."""
        self.init_seed = init_seed
        """How the weights start."""
        self.device = device
        """Where it is fitted: `auto`, `cpu`, `cuda`, ..."""

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:  # noqa: N803 (scikit-learn's name)
        """Fit on raw embeddings (S, D) and classes (S,). Raises ValueError's kin."""
        image, label = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(label)
        self.classes_, number = np.unique(label, return_inverse=True)
        self.head_: Head = self._fitted(torch.tensor(image), torch.tensor(number, dtype=torch.int64))
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
        """(N, C) logits of raw embeddings (N, D); of two classes, (N,) the second's less the first's."""
        logits = self._logits(X).numpy()
        scores: NDArray[np.float64] = logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits
        return scores

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
        """(N, C) softmax of the logits."""
        chances: NDArray[np.float64] = self._logits(X).softmax(dim=1).numpy()
        return chances

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """(N,) the class of the highest logit."""
        best = self._logits(X).argmax(dim=1).numpy()
        found: NDArray[Any] = self.classes_[best]
        return found

    def _logits(self, X: ArrayLike) -> torch.Tensor:  # noqa: N803
        check_is_fitted(self)
        image = validate_data(self, X, dtype=np.float64, reset=False)
        # In double precision, so that a row's scores do not hang on which others it is asked with.
        return HeadModule(self.head_).double().logits(torch.tensor(image))

    def _fitted(self, image: torch.Tensor, label: torch.Tensor) -> Head:
        from featcache.devices import pick_device

        kind = registry.load(self.adapter)
        if "tower" in kind.needs:
            raise ConfigError(f"{self.adapter} learns through a text tower, which embeddings do not bring along")
        try:
            method = kind(**dict(self.config or {}))
        except TypeError as error:
            raise ConfigError(f"{self.adapter} does not take config {self.config}: {error}") from error
        device = pick_device(self.device)
        names = tuple(str(name) for name in self.classes_)
        text = self._text(image, label)
        task = Task(
            text=text.to(device),
            logit_scale=float(self.logit_scale),
            names=names,
            image=image[:, None].to(device),
            label=label.to(device),
        )
        task = present(task, kind.views)
        shots = int(torch.bincount(label).max())
        preset = self.preset or str(getattr(kind, "preset", "coop"))
        changed: dict[str, Any] = {"epochs": self.epochs, "lr": self.lr}
        recipe = replace(
            recipes.make(preset, shots=shots, dataset=""),
            **{name: value for name, value in changed.items() if value is not None},
        )
        (made,) = fit([Config(method)], [task], [self.init_seed], recipe, lambda _done, _total: None)
        if made.faults:
            raise next(iter(made.faults.values()))
        encoder = _unknown_encoder(image.shape[1])
        return head_of(self.adapter, Config(method).values, Fitted(method, made.params, task), encoder)

    def _text(self, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """(C, D) unit weights of the classes."""
        if self.text is None:
            sums, _ = class_sums(normalise(image), label, len(self.classes_))
            return normalise(sums)
        text = torch.tensor(np.asarray(self.text, dtype=np.float32))
        if tuple(text.shape) != (len(self.classes_), image.shape[1]):
            raise ConfigError(
                f"text has the shape {tuple(text.shape)}; {len(self.classes_)} classes of embeddings {image.shape[1]} "
                f"wide take {(len(self.classes_), image.shape[1])}, in the order of classes_"
            )
        return normalise(text)


def _unknown_encoder(dim: int) -> Encoder:
    return Encoder(
        tower=Tower(architecture="unknown", activation="unknown", checkpoint="unknown", precision="unknown"),
        backbone="unknown",
        weights=None,
        transform={},
        dtype="float32",
        norm="raw",
        dim=dim,
        imported=True,
    )
