"""Files of Hugging Face hub repositories: those on this machine first, so that what is here needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featcache.backbones.clip import open_clip_module
from featcache.backbones.names import HUB, OPENAI, QUICK, REPOSITORY
from featcache.errors import DataError
from featcache.quieting import quiet

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_pytorch_model.bin"
_SAFE_WEIGHTS = "open_clip_model.safetensors"


def split(path: str) -> tuple[str, str]:
    """The repository and the weights' file of a pretrained tag's `hf_hub` entry, OWNER/REPO/ or OWNER/REPO/FILE."""
    repository, _, file = path.rpartition("/")
    return repository, file or WEIGHTS


def cached(repository: str, file: str, revision: str | None = None) -> Path | None:
    """Where the file is on this machine, the safetensors form of weights before the other; asks no network."""
    from huggingface_hub import try_to_load_from_cache

    for candidate in _candidates(file):
        found = try_to_load_from_cache(repository, candidate, revision=revision)
        if isinstance(found, str):
            return Path(found)
    return None


def fetched(repository: str, file: str, revision: str | None = None) -> Path:
    """Where the file is on this machine, downloaded if need be. Raises DataError."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if found := cached(repository, file, revision):
        return found
    for candidate in _candidates(file):
        try:
            with quiet():  # the client logs each of its retries; what comes of them is said once
                return Path(hf_hub_download(repository, candidate, revision=revision))
        except LocalEntryNotFoundError as error:  # the hub does not answer: another name would not help
            raise _not_fetched(repository, candidate, "the hub does not answer, or HF_HUB_OFFLINE is set") from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # the hub's client raises a tree of its own, and its transport's beside it
            raise _not_fetched(repository, candidate, f"{type(error).__name__}: {str(error)[:300]}") from error
    raise DataError(f"the repository {repository} has no {' nor '.join(_candidates(file))}; {on_this_machine()}")


def on_this_machine() -> str:
    """A clause that names the backbones whose weights are on this machine."""
    names = [*(name for name, *_, entry in tags() if is_cached(entry)), *cached_repositories()]
    return f"weights on this machine: {', '.join(['tiny', *names])}"


def tags() -> list[tuple[str, str, dict[str, Any]]]:
    """What to type, architecture and open_clip's entry of all pretrained weights that fit their architecture.

    Short names come first.
    """
    pretrained = open_clip_module().pretrained
    found = []
    for architecture, tag in pretrained.list_pretrained():
        entry = pretrained.get_pretrained_cfg(architecture, tag)
        if right_activation(architecture, entry) == architecture:
            short = architecture.removesuffix(QUICK)
            name = short if tag == "openai" and short in OPENAI else f"{architecture}/{tag}"
            found.append((name, architecture, entry))
    return sorted(found, key=lambda each: "/" in each[0])


def right_activation(architecture: str, entry: dict[str, Any]) -> str:
    """The architecture with the activation that pretrained weights need; an entry that is silent fits any."""
    wanted = entry.get("quick_gelu")
    built = bool(open_clip_module().get_model_config(architecture).get("quick_gelu"))
    if wanted is None or wanted == built:
        return architecture
    return f"{architecture}{QUICK}" if wanted else architecture.removesuffix(QUICK)


def is_cached(entry: dict[str, Any]) -> bool:
    """Whether the weights of an entry of open_clip are on this machine."""
    return bool(entry.get("hf_hub")) and cached(*split(entry["hf_hub"])) is not None


def cached_repositories() -> list[str]:
    """`hf-hub:OWNER/REPO` of every repository on this machine, other than the tags' own, that holds a backbone."""
    from huggingface_hub import constants

    of_tags = {split(entry["hf_hub"])[0] for *_, entry in tags() if entry.get("hf_hub")}
    folders = sorted(Path(constants.HF_HUB_CACHE).glob("models--*--*"))
    names = [folder.name.removeprefix("models--").replace("--", "/", 1) for folder in folders]
    ours = [name for name in names if name not in of_tags and REPOSITORY.fullmatch(name)]
    return [f"{HUB}{name}" for name in ours if cached(name, CONFIG) and cached(name, WEIGHTS)]


def _candidates(file: str) -> tuple[str, ...]:
    """The file itself, after the safetensors that may stand for it: what open_clip tries, in its order."""
    if file == WEIGHTS:
        return _SAFE_WEIGHTS, file
    stem, dot, ending = file.rpartition(".")
    return (f"{stem}{dot}safetensors", file) if ending in ("bin", "pth") else (file,)


def _not_fetched(repository: str, file: str, reason: str) -> DataError:
    return DataError(
        f"cannot download {file} of {repository} ({reason}); check the name and the connection, or give a checkpoint "
        f"file with --weights FILE; {on_this_machine()}"
    )
