"""A head as an ONNX model, alone or behind its image tower; checked by onnxruntime before it is handed over."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featcache.backbones import Backbone
from featcache.errors import ConfigError, DataError
from featcache.heads.head import Head
from featcache.heads.module import HeadModule, probe_rows
from featcache.heads.predicting import backbone_of, transform_of
from featcache.ops import normalise
from featcache.store.replacing import replacing

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
"""Of the largest logit, and of 1 at least: how far onnxruntime's logits may be from torch's."""


def save_onnx(path: Path, head: Head, *, with_tower: bool = False) -> float:
    """Write the model, whole or not at all; returns the largest difference of its logits from torch's.

    Without the tower it takes `image` (N, D), raw embeddings. With it `pixels` (N, 3, size, size), RGB from 0 to 1 at
    the tower's size, which it normalises itself. Either gives `logits` (N, C); N is free. Raises ConfigError where a
    package is lacking or the backbone is not here, DataError where onnxruntime computes something else.
    """
    check_packages()
    module: nn.Module = HeadModule(head)
    name, example, size = "image", probe_rows(head.encoder.dim), None
    if with_tower:
        backbone = backbone_of(head.encoder)
        transform = transform_of(head.encoder, backbone)
        size = transform.size
        module = Tower(module, backbone, mean=transform.mean, std=transform.std, unit=head.encoder.norm == "unit")
        name, example = "pixels", probe_rows(3 * size * size).sigmoid().view(-1, 3, size, size)
    metadata = {
        "format": "featcache-head-onnx/1",
        "classes": list(head.classes),
        "adapter": head.adapter,
        "config": head.config,
        "encoder": vars(head.encoder) | {"tower": vars(head.encoder.tower)},
        "provenance": head.provenance,
    }
    with replacing(path) as temporary:
        _write(temporary, module.eval(), name, example, metadata)
        difference = _difference(temporary, module, name, example)
        if not difference <= TOLERANCE:
            raise DataError(
                f"onnxruntime computes {head.adapter} otherwise than torch: its logits differ by {difference:.1e} of "
                f"the largest, and {TOLERANCE:g} is allowed; nothing was written"
            )
    return difference


def check_packages() -> None:
    """Raises ConfigError where the extra is not installed."""
    lacking = [name for name in PACKAGES if find_spec(name) is None]
    if lacking:
        raise ConfigError(f"ONNX needs {', '.join(lacking)}: pip install 'featcache[onnx]'")


class Tower(nn.Module):
    """An image tower with a head behind it: pixels (N, 3, size, size) from 0 to 1 -> logits (N, C)."""

    def __init__(
        self,
        head: nn.Module,
        backbone: Backbone,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        unit: bool,
    ) -> None:
        super().__init__()
        if backbone.precision != "fp32":
            raise ConfigError(f"the head's tower runs in {backbone.precision}; ONNX is written for fp32 towers only")
        self.head = head
        self.visual = backbone.model.visual
        self.unit = unit
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, C) logits."""
        image: Any = self.visual((pixels - self.get_buffer("mean")) / self.get_buffer("std"))  # type: ignore[operator]
        logits: Tensor = self.head(normalise(image) if self.unit else image)
        return logits


def _write(path: Path, module: nn.Module, name: str, example: Tensor, metadata: Mapping[str, Any]) -> None:
    import onnx

    with _quiet():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            input_names=[name],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value if isinstance(value, str) else json.dumps(value)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


@torch.no_grad()
def _difference(path: Path, module: nn.Module, name: str, example: Tensor) -> float:
    """The largest difference from torch's logits over the largest of those, for all rows and one alone."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for rows in (example, example[:1]):
        ours: Tensor = module(rows)
        theirs = torch.from_numpy(session.run(["logits"], {name: rows.numpy()})[0])
        worst = max(worst, float((ours - theirs).abs().max() / ours.abs().max().clamp_min(1)))
    return worst


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter and the packages under it warn and log about themselves; nothing of it is for our users."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
