"""A name -> a frozen dual encoder: image tower, text tower, logit scale, and the identity that keys a store.

open_clip is the only source of towers; the bundled `tiny` is one more of its model configs. Identities are memoised
by the checkpoint's path, size and time, so that a second extraction builds no model and does not import open_clip.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ConfigError, DataError, UnknownNameError
from featcache.store.places import home
from featcache.store.spec import Tower, canonical_json
from featcache.store.writing import replacing

if TYPE_CHECKING:
    import torch

BUNDLED = Path(__file__).parent / "bundled"
OPENAI = ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336")
"""Short names that mean OpenAI's weights, which were trained with QuickGELU."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """All that a plan needs to know of a backbone, without building it."""

    tower: Tower
    dim: int
    """D, the width of its embeddings."""
    size: int
    """Side of its square input, in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    logit_scale: float
    """Already exponentiated."""
    logit_bias: float


class Backbone:
    """One frozen dual encoder; the model is built only when something must be encoded.

    `weights`: None for the name's default, a pretrained tag of open_clip, a checkpoint file, or `random:SEED`.
    """

    def __init__(self, name: str, weights: str | None = None) -> None:
        self.name = name
        self.weights = weights or ("bundled" if name == "tiny" else "openai")
        self.architecture = _architecture(name.replace("/", "-"), self.weights)

    @cached_property
    def identity(self) -> Identity:
        """The backbone's identity, from the memo where the checkpoint has not changed since."""
        return _recall(self._memo_key) or self._remember()

    @cached_property
    def model(self) -> torch.nn.Module:
        """The built model in evaluation mode, on the CPU."""
        return _build(self.architecture, self.weights)

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(b, D) raw float32 embeddings of normalised pixels (b, 3, size, size)."""
        import torch

        with torch.inference_mode():
            # Said outright: CoCa's towers normalise unless told not to.
            embedding: torch.Tensor = self.model.encode_image(pixels, normalize=False)  # type: ignore[operator]
            return embedding.float()

    def encode_texts(self, sentences: Sequence[str], device: torch.device, batch: int = 256) -> NDArray[np.float32]:
        """(T, D) raw embeddings of sentences; raises DataError for one beyond the text tower's context."""
        import torch

        tokens = _tokens(_open_clip().get_tokenizer(self.architecture), sentences, self.name)
        model = self.model.to(device)
        with torch.inference_mode():
            rows = [
                model.encode_text(part.to(device), normalize=False).float().cpu()  # type: ignore[operator]
                for part in torch.split(tokens, batch)
            ]
        embedding: NDArray[np.float32] = torch.cat(rows).numpy()
        return embedding

    @property
    def _memo_key(self) -> str:
        return f"{self.architecture}|{_file_named(self.weights) or self.weights}|open_clip {version('open_clip_torch')}"

    def _remember(self) -> Identity:
        """The identity read off the built model, and noted for next time."""
        import open_clip

        model = self.model
        config = open_clip.get_model_config(self.architecture)
        preprocess = open_clip.model.get_model_preprocess_cfg(model)
        checkpoint = _checkpoint(self.architecture, self.weights)
        size = preprocess["size"]
        bias = getattr(model, "logit_bias", None)
        identity = Identity(
            tower=Tower(
                architecture=self.architecture,
                activation="quickgelu" if config.get("quick_gelu") else "gelu",
                checkpoint=self.weights if checkpoint is None else _sha256(checkpoint),
                precision="fp32",
            ),
            dim=int(config["embed_dim"]),
            size=int(size if isinstance(size, int) else size[0]),
            mean=tuple(preprocess["mean"]),
            std=tuple(preprocess["std"]),
            interpolation=preprocess["interpolation"],
            logit_scale=math.exp(float(model.logit_scale)),  # type: ignore[arg-type]
            logit_bias=0.0 if bias is None else float(bias),
        )
        _note(self._memo_key, identity, checkpoint)
        return identity


def known() -> list[str]:
    """Every architecture's name; imports open_clip."""
    return sorted({"tiny", *_open_clip().list_models()})


def _tokens(tokenizer: Any, sentences: Sequence[str], name: str) -> torch.Tensor:
    """(T, context) tokens. The tokenizer cuts a longer sentence without a word: twice the context shows which."""
    tokens: torch.Tensor = tokenizer(list(sentences))
    context = tokens.shape[1]
    uncut = tokenizer(list(sentences), context_length=2 * context)[:, :context]
    cut = (tokens != uncut).any(dim=1).nonzero().flatten().tolist()
    if cut:
        raise DataError(
            f"{len(cut)} of {len(sentences)} prompts are longer than the {context} tokens that {name} reads, first "
            f"{sentences[cut[0]][:120]!r}; shorten --template or the class names (--classnames FILE)"
        )
    return tokens


def _architecture(name: str, weights: str) -> str:
    """open_clip's name; the short OpenAI names mean QuickGELU, so that they never trip the activation check."""
    if name in OPENAI and (weights == "openai" or weights.startswith("random:")):
        return f"{name}-quickgelu"
    return name


def _open_clip() -> Any:
    # Its import runs code that warns about others' deprecations; they say nothing to our users.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import open_clip
    if "tiny" not in open_clip.list_models():
        open_clip.add_model_config(BUNDLED / "tiny.json")
    return open_clip


def _build(architecture: str, weights: str) -> torch.nn.Module:
    import torch

    open_clip = _open_clip()
    if architecture not in open_clip.list_models():
        raise UnknownNameError("backbone", architecture, known())
    checkpoint = _checkpoint(architecture, weights)
    logging.disable(logging.WARNING)  # open_clip warns that weights are random, which is what was asked for
    try:
        with torch.random.fork_rng(devices=[]):
            if checkpoint is None:
                torch.manual_seed(_random_seed(weights))
            model: torch.nn.Module = open_clip.create_model(
                architecture,
                pretrained=None
                if checkpoint is None
                else weights
                if _is_tag(architecture, weights)
                else str(checkpoint),
                precision="fp32",
                device="cpu",
                pretrained_hf=checkpoint is not None,
            )
    except Exception as error:  # torch.load, safetensors and open_clip each raise a tree of their own
        raise DataError(f"the weights {weights} do not load into {architecture}: {str(error)[:500]}") from error
    finally:
        logging.disable(logging.NOTSET)
    return model.eval().requires_grad_(False)


def _checkpoint(architecture: str, weights: str) -> Path | None:
    """The checkpoint's file, downloaded where open_clip knows a link; None for random weights."""
    if weights.startswith("random:"):
        _random_seed(weights)
        return None
    if weights == "bundled" and architecture != "tiny":
        raise ConfigError(f"--weights bundled exists for the backbone tiny only, not for {architecture}")
    if _is_tag(architecture, weights):
        return _download(architecture, weights)
    if file := _file_named(weights):
        return file
    tags = _open_clip().list_pretrained_tags_by_model(architecture)
    raise UnknownNameError(f"weights of {architecture}", weights, [*tags, "a checkpoint file", "random:SEED"])


def _file_named(weights: str) -> Path | None:
    """The checkpoint file that these weights are, as an absolute path; None for a tag and for random weights."""
    if weights == "bundled":
        return BUNDLED / "tiny.safetensors"
    path = Path(weights).expanduser()
    return path.absolute() if path.is_file() else None


def _is_tag(architecture: str, weights: str) -> bool:
    return bool(_open_clip().pretrained.get_pretrained_cfg(architecture, weights))


def _download(architecture: str, tag: str) -> Path:
    open_clip = _open_clip()
    config = open_clip.pretrained.get_pretrained_cfg(architecture, tag)
    wanted, built = config.get("quick_gelu"), bool(open_clip.get_model_config(architecture).get("quick_gelu"))
    if wanted is not None and wanted != built:
        other = f"{architecture}-quickgelu" if wanted else architecture.removesuffix("-quickgelu")
        raise ConfigError(
            f"{architecture} with weights {tag} has the wrong activation, which silently shifts every embedding; "
            f"use --backbone {other}"
        )
    try:
        return Path(open_clip.download_pretrained(config))
    except Exception as error:  # the hub's client raises a tree of its own, urllib another
        raise DataError(
            f"cannot download the weights {tag} of {architecture} ({type(error).__name__}: {str(error)[:300]}); "
            "check the connection, or give a checkpoint file with --weights FILE"
        ) from error


def _random_seed(weights: str) -> int:
    seed = weights.removeprefix("random:")
    if not (seed.isascii() and seed.isdecimal() and len(seed) <= 18):
        raise ConfigError(f"--weights {weights}: random weights are written random:SEED, as in random:0")
    return int(seed)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _memo() -> Path:
    return home() / "backbones.json"


def _recall(memo_key: str) -> Identity | None:
    """The noted identity, if the checkpoint it was read from is still the same file."""
    try:
        entry = json.loads(_memo().read_text(encoding="utf-8"))[memo_key]
        if entry["file"] is not None and entry["stamp"] != _stamp(Path(entry["file"])):
            return None
        fields = entry["identity"]
        return Identity(
            **{**fields, "tower": Tower(**fields["tower"]), "mean": tuple(fields["mean"]), "std": tuple(fields["std"])}
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no memo, or one from another version: the model itself says


def _note(memo_key: str, identity: Identity, checkpoint: Path | None) -> None:
    """Add to the memo by rename; two writers at once may lose a note, which only costs a rebuild."""
    path = _memo()
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        noted = None
    entries = noted if isinstance(noted, dict) else {}
    file = None if checkpoint is None else str(checkpoint.absolute())
    entries[memo_key] = {
        "identity": asdict(identity),
        "file": file,
        "stamp": None if checkpoint is None else _stamp(checkpoint),
    }
    with replacing(path) as temporary:
        temporary.write_text(canonical_json(entries), encoding="utf-8")


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
