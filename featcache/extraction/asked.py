"""What to extract and where, as one asks for it: a data set and a backbone, a machine."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.backbones import Backbone
from featcache.datasets import Manifest, load
from featcache.engines import Engine, engine_named
from featcache.extraction.plan import Plan, Request, make_plan

if TYPE_CHECKING:
    from featcache.extraction.drift import Drift
    from featcache.extraction.encode import Machine


@dataclass(frozen=True, kw_only=True)
class Source:
    """What to extract: a data set and a backbone."""

    dataset: str
    backbone: str
    data: Path | None = None
    weights: str | None = None
    precision: str = "fp32"
    template: str | None = None
    classnames: Path | None = None

    def manifest(self) -> Manifest:
        """The data set's list of images."""
        return load(self.dataset, data=self.data, template=self.template, classnames=self.classnames)

    @property
    def command(self) -> str:
        """The command that extends the store, without the folder of the data, which is the machine's own."""
        words = ["featcache", "extract", "--dataset", self.dataset, "--backbone", self.backbone]
        words += ["--weights", self.weights] if self.weights else []
        words += ["--precision", self.precision] if self.precision != "fp32" else []
        words += ["--template", self.template] if self.template else []
        words += ["--classnames", str(self.classnames)] if self.classnames else []
        return shlex.join(words)


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """Where to encode."""

    device: str = "auto"
    workers: int | None = None
    batch_size: int = 64
    engine: str = "here"
    """Who encodes: one of `engines.ENGINES`."""
    allow_drift: bool = False
    """Take pixels whose embeddings drift beyond `drift.BOUND`."""


def plan_of(source: Source, request: Request) -> Plan:
    """What there is to do for one data set and backbone."""
    return make_plan(source.manifest(), backbone_of(source).identity, request)


@lru_cache(maxsize=2)  # a model is big, and data sets take turns with it
def _backbone(name: str, weights: str | None, precision: str) -> Backbone:
    return Backbone(name, weights, precision)


def backbone_of(source: Source) -> Backbone:
    """The source's backbone, the same object for the same one."""
    return _backbone(source.backbone, source.weights, source.precision)


def command_of(source: Source, request: Request) -> str:
    """What extends the store: all options that decide its key or its name."""
    words = [source.command, "--style", request.style]
    if request.crop_scale != Request().crop_scale:
        words += ["--crop-scale", ":".join(f"{end:g}" for end in request.crop_scale)]
    words += ["--pixels", request.pixels] if request.pixels != "pil" else []
    words += ["--dtype", request.dtype] if request.dtype != "auto" else []
    words += ["--name", request.name] if request.name else []
    return " ".join(words)


def gate(plan: Plan, backbone: Backbone, machine: Machine, *, allow_drift: bool) -> Drift | None:
    """The measured drift of pixels that are not PIL's; raises ConfigError beyond the bound unless it is allowed."""
    from featcache.extraction import drift

    found = drift.measured(plan, backbone, machine)
    if found and not allow_drift:
        found.check()
    return found


def machine_of(options: MachineOptions, engine: Engine | None = None) -> Machine:
    """The options made fast, for shards that an engine encodes; this process's own without one."""
    from featcache.extraction.encode import Machine

    device, workers = (engine or engine_named(options.engine)).place(options.device, options.workers)
    return Machine(device=device, batch_size=options.batch_size, workers=workers)
