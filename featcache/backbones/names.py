"""What the user types -> an architecture and its weights, without importing open_clip (4 s) or reading any weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from featcache.errors import ConfigError, UnknownNameError

OPENAI = ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336")
"""Short names that mean OpenAI's weights, which were trained with QuickGELU."""
HUB = "hf-hub:"
"""A repository of the Hugging Face hub that holds an open_clip config and weights."""
FOLDER = "local-dir:"
"""A folder that holds what such a repository does."""
RANDOM = "random:"
BUNDLED = "bundled"
OWN = "own"
"""The weights beside the config, in the same repository or folder."""
PRECISIONS = ("fp32", "bf16", "fp16")
COMPILED = "-compiled"
"""After a precision: the image tower runs through torch.compile, whose sums may round otherwise in the last bits."""
QUICK, PLAIN = "-quickgelu", "-gelu"
_BUNDLED_MODEL = "tiny"
REPOSITORY = re.compile(r"\w+([.-]\w+)*/\w+([.-]\w+)*", re.ASCII)
_SEED_DIGITS = 18  # what torch's generators hold


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which backbone is meant."""

    architecture: str
    """open_clip's name, or `hf-hub:OWNER/REPO`, or `local-dir:` and an absolute path."""
    weights: str
    """`bundled`, `own`, `random:SEED`, a checkpoint file's absolute path, or a pretrained tag of open_clip."""
    precision: str
    """`fp32`, `bf16` or `fp16`, perhaps `-compiled`."""

    @property
    def arithmetic(self) -> str:
        """What the weights are cast to: the precision, compiled or not."""
        return self.precision.removesuffix(COMPILED)

    @property
    def compiled(self) -> bool:
        """Whether the image tower is compiled."""
        return self.precision.endswith(COMPILED)

    @property
    def has_config(self) -> bool:
        """Whether the architecture comes with the weights, as a config file, rather than from open_clip."""
        return self.architecture.startswith((HUB, FOLDER))

    @property
    def seed(self) -> int | None:
        """The seed of random weights."""
        return int(self.weights.removeprefix(RANDOM)) if self.weights.startswith(RANDOM) else None

    @property
    def file(self) -> Path | None:
        """The checkpoint file that the user named."""
        return Path(self.weights) if Path(self.weights).is_absolute() else None

    @property
    def tag(self) -> str | None:
        """The pretrained tag."""
        named = self.weights in (BUNDLED, OWN) or self.file or self.weights.startswith(RANDOM)
        return None if named else self.weights


def parse(name: str, weights: str | None, precision: str) -> Choice:
    """What a backbone's name and `--weights` mean. Raises UnknownNameError and ConfigError."""
    if precision.removesuffix(COMPILED) not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    if name.startswith(HUB):
        architecture, default = _repository(name), OWN
    elif name.startswith(FOLDER):
        architecture, default = _folder(name), OWN
    else:
        architecture, tag = _architecture(name)
        if tag and weights:
            raise ConfigError(f"--backbone {name} names the weights {tag}, --weights {weights} others; name them once")
        weights, default = tag or weights, BUNDLED if architecture == _BUNDLED_MODEL else "openai"
    chosen = _weights(weights or default)
    if chosen == BUNDLED and architecture != _BUNDLED_MODEL:
        raise ConfigError(f"--weights bundled exists for the backbone tiny only, not for {architecture}")
    return Choice(architecture=_with_activation(architecture, chosen), weights=chosen, precision=precision)


@cache
def known() -> tuple[str, ...]:
    """Every architecture's name, sorted: those that open_clip has a config of, and `tiny`."""
    spec = find_spec("open_clip")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    configs = Path(spec.submodule_search_locations[0]) / "model_configs"
    return tuple(sorted({_BUNDLED_MODEL, *(path.stem for path in configs.glob("*.json"))}))


def has_both_activations(architecture: str) -> bool:
    """Whether the architecture exists with either activation, under this name and under `-quickgelu`."""
    return {architecture, f"{architecture}{QUICK}"} <= set(known())


def _architecture(name: str) -> tuple[str, str | None]:
    """The architecture, and the tag if one follows: the longest run of words that is an architecture's name."""
    words = name.replace("@336px", "-336").split("/")  # OpenAI writes ViT-L/14@336px
    for number in range(len(words), 0, -1):
        architecture, tag = "-".join(words[:number]), "/".join(words[number:])
        is_plain = architecture.endswith(PLAIN) and has_both_activations(architecture.removesuffix(PLAIN))
        if (architecture in known() or is_plain) and (tag or number == len(words)):
            return architecture, tag or None
    raise UnknownNameError("backbone", name.replace("/", "-"), known())


def _repository(name: str) -> str:
    if not REPOSITORY.fullmatch(name.removeprefix(HUB)):
        raise ConfigError(f"--backbone {name}: a repository is written {HUB}OWNER/REPO")
    return name


def _folder(name: str) -> str:
    folder = Path(name.removeprefix(FOLDER)).expanduser()
    if name == FOLDER or not folder.is_dir():
        raise ConfigError(f"--backbone {name}: there is no folder {folder}; a folder is written {FOLDER}PATH")
    return f"{FOLDER}{folder.absolute()}"


def _weights(weights: str) -> str:
    """The weights, a file as its absolute path. A tag has neither dot nor slash; whatever has one is a file."""
    if weights.startswith(RANDOM):
        seed = weights.removeprefix(RANDOM)
        if not (seed.isascii() and seed.isdecimal() and len(seed) <= _SEED_DIGITS):
            raise ConfigError(f"--weights {weights}: random weights are written random:SEED, as in random:0")
        return weights
    if not any(mark in weights for mark in "./\\"):
        return weights
    file = Path(weights).expanduser().absolute()
    if not file.is_file():
        raise ConfigError(
            f"--weights {weights}: there is no file {file}; weights are a checkpoint file, a pretrained tag "
            "(`featcache backbones ls --all` lists them) or random:SEED"
        )
    return str(file)


def _with_activation(architecture: str, weights: str) -> str:
    """open_clip's name, whose end tells the activation; the short OpenAI names mean QuickGELU.

    A checkpoint file does not tell which of the two it was trained with, and either loads: there the user must.
    """
    if architecture.startswith((HUB, FOLDER)):
        return architecture  # its config says
    if architecture not in known():
        return architecture.removesuffix(PLAIN)
    if architecture in OPENAI and (weights == "openai" or weights.startswith(RANDOM)):
        return architecture + QUICK
    if Path(weights).is_absolute() and has_both_activations(architecture):
        raise ConfigError(
            f"{architecture} with the weights {weights}: a checkpoint file does not tell its activation, and the wrong "
            f"one silently shifts every embedding; say --backbone {architecture}{QUICK} (OpenAI's, MetaCLIP's and "
            f"DFN's weights) or --backbone {architecture}{PLAIN} (most others)"
        )
    return architecture
