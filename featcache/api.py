"""featcache from Python: a store, a task of it, a fit, a head. `import featcache` offers what is here."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from featcache import fit_options, grids, registry, results, shelf
from featcache.errors import UnknownNameError
from featcache.extraction import Request, asked, carry_out
from featcache.fitted import FitResults
from featcache.heads import keeping
from featcache.heads.files import load_module
from featcache.heads.head import encoder_of
from featcache.loading import class_range, data_set, draws_of, load_rows
from featcache.loading import load_frozen as frozen_of
from featcache.prompts import DEFAULT
from featcache.results.recording import Recorder
from featcache.search import search
from featcache.store import Store
from featcache.store.places import resolve, results_path

if TYPE_CHECKING:
    from featcache.heads.module import HeadModule

Progress = Callable[[int, int], None]
"""Told how much has just been done, and of how much in all; perhaps from another thread."""
Values = float | int | bool | str | Sequence[float] | Sequence[int] | Sequence[str]


def extract(
    dataset: str,
    backbone: str,
    *,
    data: str | Path | None = None,
    weights: str | None = None,
    precision: str = "fp32",
    template: str | None = None,
    classnames: str | Path | None = None,
    shots: Sequence[int] = Request.shots,
    seeds: Sequence[int] = Request.shot_seeds,
    views: int = Request.num_views,
    all_train: bool = False,
    style: str = Request.style,
    crop_scale: tuple[float, float] = Request.crop_scale,
    pixels: str = Request.pixels,
    prompts: Sequence[str] = Request.prompts,
    dtype: str = Request.dtype,
    name: str | None = None,
    skip_unreadable: bool = False,
    device: str = "auto",
    workers: int | None = None,
    batch_size: int = 64,
    progress: Progress = lambda _done, _total: None,
) -> FeatureStore:
    """The store of a data set's embeddings, encoded if it is not there already: `featcache extract` in one call.

    `dataset` and `backbone` are what the command takes: a known name, `folder:PATH`, `csv:FILE` or `hf:NAME`; `tiny`,
    `RN50` or any open_clip model. `data` is the folder of data sets (default: FEATCACHE_DATA). An interrupted call goes
    on where it was. `workers` are decoding processes, one a core unless said; in a script that starts processes by
    spawning, call it under `if __name__ == "__main__"`. Raises InputError's kin.
    """
    named = os.environ.get("FEATCACHE_DATA") if data is None else data
    source = asked.Source(
        dataset=dataset,
        backbone=backbone,
        data=Path(named) if named else None,
        weights=weights,
        precision=precision,
        template=template,
        classnames=Path(classnames) if classnames else None,
    )
    request = Request(
        shots=tuple(shots),
        shot_seeds=tuple(seeds),
        num_views=views,
        all_train=all_train,
        style=style,
        crop_scale=crop_scale,
        pixels=pixels,
        prompts=tuple(prompts),
        dtype=dtype,
        name=name,
        skip_unreadable=skip_unreadable,
    )
    plan = asked.plan_of(source, request)
    if not plan.complete:
        machine = asked.machine_of(asked.MachineOptions(device=device, workers=workers, batch_size=batch_size))
        encoder = asked.backbone_of(source)
        asked.gate(plan, encoder, machine, allow_drift=False)
        carry_out(
            plan,
            encoder,
            machine,
            provenance={"command": asked.command_of(source, request)},
            progress=lambda embeddings: progress(embeddings, plan.num_missing),
        )
    return FeatureStore(plan.store)


def open(name: str | Path | None = None) -> FeatureStore:
    """A store by name, key prefix or path; the newest without one. Raises InputError's kin.

    >>> store = featcache.open("toy")
    >>> store.name, len(store.classes), store.dim
    ('toy', 6, 24)
    """
    return FeatureStore(resolve(None if name is None else str(name)))


def grid(start: float, stop: float, step: float) -> tuple[float, ...]:
    """The values from `start` to `stop`, both included, as the decimals one would type. Raises ConfigError.

    >>> featcache.grid(0, 1, 0.25)
    (0.0, 0.25, 0.5, 0.75, 1.0)
    >>> featcache.grid(0, 0.3, 0.1)
    (0.0, 0.1, 0.2, 0.3)
    """
    return grids.parse(f"{start!r}:{stop!r}:{step!r}")


def load_head(path: str | Path) -> HeadModule:
    """The head in a file that `featcache export` or `FitResults.export` wrote: a torch module on the CPU.

    `head(image)` gives logits (N, C) of raw embeddings (N, D), `head.classify(files)` classes of images,
    `head.merged()` one linear layer where the method allows it. No code of the file is run; a file that is damaged or
    no head raises DataError.

    >>> head = featcache.load_head("head.safetensors")
    >>> head(torch.ones(2, head.dim)).shape
    torch.Size([2, 6])
    >>> head.head.adapter, head.is_linear
    ('taskres', True)
    """
    return load_module(Path(path))


def fit(
    task: FewShotTask,
    adapter: str = "clip_adapter",
    *,
    preset: str | None = None,
    epochs: int | None = None,
    lr: float | Sequence[float] | None = None,
    batch_size: int | None = None,
    weight_decay: float | Sequence[float] | None = None,
    momentum: float | Sequence[float] | None = None,
    last_batch: str | None = None,
    init_seeds: Sequence[int] | None = None,
    post_hoc_alpha: Sequence[float] | None = None,
    views: str | None = None,
    select: str | None = None,
    choose: str = "per-draw",
    device: str = "auto",
    record: bool = False,
    progress: Progress = lambda _done, _total: None,
    **fields: Values,
) -> FitResults:
    """Every configuration on every draw of the task, chosen by a protocol, then tested: `featcache fit` in one call.

    `fields` are the method's own (`featcache adapters info NAME` explains them): a value, or several to search, as of
    `lr`, `weight_decay` and `momentum` too. What is not said is searched as the method's file has it. `select` names
    the protocol; test rows are read after the choice.
    With `record`, the search goes into the results that `featcache results` lists. Raises InputError's kin.

    >>> task = featcache.open("toy").task(shots=4, seed=1)
    >>> results = featcache.fit(task, "clip_adapter", alpha=featcache.grid(0, 1, 0.5), epochs=5)
    >>> len(results.runs), results.best.alpha in (0.0, 0.5, 1.0)
    (3, True)
    """
    training = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
    own = [field.name for field in dataclasses.fields(registry.load(adapter))]  # type: ignore[arg-type]
    searched = {n: v for n, v in training.items() if v is not None and (n in own or not isinstance(v, (int, float)))}
    fields = {**fields, **searched}
    alone: dict[str, Any] = {name: None if name in searched else value for name, value in training.items()}
    options = fit_options.FitOptions(
        adapters=(adapter,),
        grid=tuple(f"{name}={_typed(value)}" for name, value in fields.items()),
        post_hoc_alpha=None if post_hoc_alpha is None else _typed(post_hoc_alpha),
        views=views,
        choose=choose,
        shots=(task.shots,),
        shot_seeds=task.seeds,
        init_seeds=None if init_seeds is None else tuple(init_seeds),
        preset=preset,
        epochs=epochs,
        batch_size=batch_size,
        last_batch=last_batch,
        select=select,
        prompts=(task.prompts,),
        classes=task.classes,
        device=device,
        **alone,
    )
    fit_options.check_effect(options)
    job = fit_options.Job(task.store.path, adapter, task.prompts, task.shots)
    store, file = task.store, results_path()
    recorder = Recorder(file, ["fit", store.name, "--adapter", adapter]) if record else None
    kept: list[Any] = []

    def keep(outcome: Any, fitted: Any) -> None:
        kept.extend(fitted)
        if record:
            keeping.keep(keeping.folder_of(file), store, outcome, fitted)

    outcome = search(
        store,
        fit_options.settings_of(job, options),
        lambda shots: fit_options.recipe_of(adapter, options, shots, data_set(store)),
        learnt=results.learnt_for(file, store.key, task.classes),
        record=recorder or (lambda _: None),
        keep=keep,
        shelves=shelf.folder_of(file) if record else None,
        progress=progress,
    )
    number = recorder.search_id if recorder else None
    return FitResults(outcome, tuple(kept), encoder_of(store), number)


@dataclass(frozen=True, kw_only=True)
class FewShotTask:
    """Some images a class of a store, drawn as CoOp draws them, and the text to classify by: what `fit` takes."""

    store: FeatureStore
    shots: int | None
    """Images a class; None for the largest extracted."""
    seeds: tuple[int, ...] | None
    """One draw each; None for all extracted."""
    prompts: str
    """The text set; A+B averages two."""
    classes: str
    """`all`, or CoOp's halves `base` and `new`."""

    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Embeddings (S, D) and classes (S,) of the first draw's training images, without augmentation.

        >>> image, label = featcache.open("toy").task(shots=4, seed=1).arrays()
        >>> image.shape, label.shape
        ((24, 24), (24,))
        """
        (drawn, *_) = draws_of(self.store, self.shots, self.seeds)
        wanted = class_range(self.store, self.classes)
        rows = load_rows(self.store, "train", torch.device("cpu"), classes=wanted, rows=drawn.train, drawn=drawn)
        return rows.image.numpy(), rows.label.numpy()


class FeatureStore(Store):
    """An open store: embeddings of a data set's images, and of its class names, by one frozen encoder.

    Use it as a context manager, or `close` it; `classes`, `splits`, `text_sets`, `dim` and `logit_scale` say what is in
    it.
    """

    def task(
        self,
        shots: int | None = None,
        seed: int | Sequence[int] | None = None,
        *,
        prompts: str = DEFAULT,
        classes: str = "all",
    ) -> FewShotTask:
        """A few-shot task: `shots` images a class, of one draw or of several. Raises InputError for what is not stored.

        >>> featcache.open("toy").task(shots=4, seed=(1, 2)).seeds
        (1, 2)
        """
        seeds = (seed,) if isinstance(seed, int) else None if seed is None else tuple(seed)
        task = FewShotTask(store=self, shots=shots, seeds=seeds, prompts=prompts, classes=classes)
        task.arrays()  # rows that are not there are better told here than after the others were fitted
        return task

    def arrays(self, split: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Un-augmented embeddings (N, D) and classes (N,) of every stored image of `train`, `val` or `test`.

        >>> image, label = featcache.open("toy").arrays("test")
        >>> image.shape, label[:3]
        ((90, 24), array([0, 1, 2]))
        """
        if split not in self.splits:
            raise UnknownNameError(f"split of {self.name}", split, self.splits)
        rows = load_rows(self, split, torch.device("cpu"))
        return rows.image.numpy(), rows.label.numpy()

    def text_weights(self, prompts: str = DEFAULT) -> NDArray[np.float32]:
        """(C, D) unit classifier weights of a text set; A+B averages two. (C, 0) where the store has no text.

        >>> featcache.open("toy").text_weights().shape
        (6, 24)
        """
        weights: NDArray[np.float32] = frozen_of(self, prompts, torch.device("cpu")).text.numpy()
        return weights


def _typed(value: Values) -> str:
    """A field's value or values as one would type them after --grid."""
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if isinstance(value, np.ndarray):
        values = value.tolist()
    words = [str(item).lower() if isinstance(item, bool) else str(item) for item in values]
    return ",".join(words)


__all__ = ["FeatureStore", "FewShotTask", "extract", "fit", "grid", "load_head", "open"]
