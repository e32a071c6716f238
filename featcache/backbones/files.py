"""A choice -> the files it is made of, on this machine; weights that would not fit or would run code are refused."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.backbones import hub
from featcache.backbones.clip import BUNDLED_FOLDER, open_clip_module
from featcache.backbones.names import BUNDLED, FOLDER, HUB, OWN, QUICK, Choice
from featcache.bounded import check_npz, check_torch, parse_json, read_text, zip_members
from featcache.errors import ConfigError, DataError, UnknownNameError
from featcache.store.spec import canonical_json

_USUAL = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
_ENDINGS = (".safetensors", ".bin", ".pth", ".pt")


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of one backbone."""

    config: Path | None = None
    """The open_clip_config.json of a repository or folder; None where open_clip itself has the config."""
    checkpoint: Path | None = None
    """None for random weights."""
    hub: tuple[str, str] | None = None
    """The repository and the file that were looked up on the hub, to notice a new revision by."""
    preprocess: dict[str, Any] | None = None
    """What open_clip says of a tag's preprocessing, beside the architecture's size."""

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file whose change makes another backbone."""
        return tuple(path for path in (self.config, self.checkpoint) if path)

    @property
    def looked_up(self) -> Path | None:
        """Where the file that was looked up on the hub is."""
        return self.config or self.checkpoint if self.hub else None


class UnknownWeightsError(UnknownNameError):
    """No such weights of an architecture; the message lists the tags, and what is on this machine."""

    def __init__(self, architecture: str, weights: str) -> None:
        tags = open_clip_module().list_pretrained_tags_by_model(architecture)
        known = [*tags, "a checkpoint file", "random:SEED"]
        super().__init__(f"weights of {architecture}", weights, known, hint=hub.on_this_machine())


def locate(choice: Choice) -> Files:
    """The files of the backbone that is meant, downloaded where need be. Raises InputError's kin."""
    if choice.has_config:
        return _beside_config(choice)
    if choice.architecture not in open_clip_module().list_models():
        raise UnknownNameError("backbone", choice.architecture, open_clip_module().list_models())
    if choice.weights == BUNDLED:
        return Files(checkpoint=BUNDLED_FOLDER / "tiny.safetensors")
    return _of_tag(choice.architecture, choice.tag) if choice.tag else Files(checkpoint=choice.file)


def model_config(choice: Choice, files: Files) -> dict[str, Any]:
    """open_clip's description of the architecture. Raises DataError for a file that is none."""
    if files.config is None:
        known: dict[str, Any] = open_clip_module().get_model_config(choice.architecture)
        return known
    try:
        config = parse_json(read_text(files.config, "utf-8"))["model_cfg"]
        canonical_json(config)  # its digest is part of the key, and NaN has none
        if not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
            raise KeyError("embed_dim, vision_cfg or text_cfg")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{files.config} is not an open_clip config ({type(error).__name__}: {error}), which --backbone "
            f"{choice.architecture} needs"
        ) from error
    found: dict[str, Any] = config
    return found


def check_loads_safely(checkpoint: Path, architecture: str) -> None:
    """Raise DataError for a checkpoint that cannot be read without running code that may be in it.

    open_clip loads with `weights_only=True`, but goes on without it when that raises a TypeError: nothing that fails
    here gets that far.
    """
    import torch

    if checkpoint.suffix == ".safetensors":
        return  # it can hold no code, and its reader checks its sizes
    if checkpoint.suffix == ".npz":  # nor can this: numpy unpickles nothing unless told to
        _check_arrays(checkpoint, architecture)
        return
    members = zip_members(checkpoint)
    if any(info.filename.endswith("/constants.pkl") for info in members or ()):
        raise DataError(
            f"the weights {checkpoint} do not load into {architecture}: they are a TorchScript archive, which runs "
            f"code when it is read; {_openai_instead(architecture)}"
        )
    try:
        check_torch(checkpoint)
        torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True if members else None)
    except DataError as error:
        raise DataError(f"the weights {checkpoint} do not load into {architecture}: {error}") from error
    except Exception as error:  # torch raises whatever the bytes provoke
        raise DataError(
            f"the weights {checkpoint} do not load into {architecture}: they are no plain tensors, or damaged "
            f"({type(error).__name__} of torch.load with weights_only=True), and nothing else in a file is run; if "
            "they are sound, save their state_dict as safetensors where you trust them"
        ) from error


def _check_arrays(checkpoint: Path, architecture: str) -> None:
    """Raise DataError for an .npz that claims more than is in it."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
        check_npz(checkpoint, names)
    except DataError:
        raise
    except Exception as error:  # whatever damaged bytes provoke in zipfile and numpy
        raise DataError(f"the weights {checkpoint} do not load into {architecture}: {str(error)[:300]}") from error


def _beside_config(choice: Choice) -> Files:
    if choice.tag:
        raise ConfigError(
            f"--weights {choice.tag} is a tag of open_clip's own architectures; {choice.architecture} has its own "
            "weights: leave --weights out, or give a checkpoint file or random:SEED"
        )
    if choice.weights == BUNDLED:
        raise ConfigError(f"--weights bundled exists for the backbone tiny only, not for {choice.architecture}")
    return _of_repository(choice) if choice.architecture.startswith(HUB) else _of_folder(choice)


def _of_repository(choice: Choice) -> Files:
    repository = choice.architecture.removeprefix(HUB)
    config = hub.fetched(repository, hub.CONFIG)
    checkpoint = choice.file
    if choice.weights == OWN:
        checkpoint = hub.fetched(repository, hub.WEIGHTS, revision=config.parent.name)  # of the one revision
    return Files(config=config, checkpoint=checkpoint, hub=(repository, hub.CONFIG))


def _of_folder(choice: Choice) -> Files:
    folder = Path(choice.architecture.removeprefix(FOLDER))
    config = folder / hub.CONFIG
    if not config.is_file():
        raise DataError(f"--backbone {choice.architecture}: {folder} has no {hub.CONFIG}")
    return Files(config=config, checkpoint=_only_weights(folder) if choice.weights == OWN else choice.file)


def _only_weights(folder: Path) -> Path:
    found = sorted(path for path in folder.iterdir() if path.suffix in _ENDINGS)
    usual = [folder / name for name in _USUAL if folder / name in found]
    if usual or len(found) == 1:
        return (usual or found)[0]
    listed = ", ".join(path.name for path in found) or "none"
    usual_names = " or ".join(_USUAL[::2])
    raise DataError(f"{folder} should hold one checkpoint ({usual_names}); found: {listed}; or name it: --weights FILE")


def _of_tag(architecture: str, tag: str) -> Files:
    open_clip = open_clip_module()
    entry = open_clip.pretrained.get_pretrained_cfg(architecture, tag)
    # open_clip lists some tags under one of an architecture's two activations alone.
    other = architecture.removesuffix(QUICK) if architecture.endswith(QUICK) else f"{architecture}{QUICK}"
    of_other = {} if entry else open_clip.pretrained.get_pretrained_cfg(other, tag)
    if not entry and not of_other:
        raise UnknownWeightsError(architecture, tag)
    right = hub.right_activation(architecture, entry) if entry else other
    if right != architecture:
        raise ConfigError(
            f"{architecture} with weights {tag} has the wrong activation, which silently shifts every embedding; "
            f"use --backbone {right}"
        )
    if not entry.get("hf_hub"):
        return Files(checkpoint=Path(open_clip.download_pretrained(entry)), preprocess=entry)
    repository, file = hub.split(entry["hf_hub"])
    return Files(checkpoint=hub.fetched(repository, file), hub=(repository, file), preprocess=entry)


def _openai_instead(architecture: str) -> str:
    """What to do about OpenAI's own .pt files, which are such archives."""
    entry = open_clip_module().pretrained.get_pretrained_cfg(architecture.removesuffix(QUICK), "openai")
    if not entry.get("hf_hub"):
        return "convert its state_dict to safetensors where you trust it"
    repository, _ = hub.split(entry["hf_hub"])
    return (
        f"OpenAI's own files are such archives: --weights openai takes the same weights as safetensors (offline, "
        f"bring {_USUAL[0]} of huggingface.co/{repository} and name it with --weights FILE)"
    )
