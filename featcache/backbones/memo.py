"""The notes on backbones whose files have not changed: a second extraction builds no model, imports no open_clip."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from featcache.backbones import hub
from featcache.backbones.files import Files
from featcache.backbones.identity import Identity
from featcache.backbones.names import Choice
from featcache.store.places import home
from featcache.store.replacing import replacing
from featcache.store.spec import Tower, canonical_json


def recall(choice: Choice) -> Identity | None:
    """The noted identity, if its files are still the same and the hub's cache still means them."""
    try:
        entry = json.loads(_path().read_text(encoding="utf-8"))[_key(choice)]
        if entry["files"] != [_stamp(Path(path)) for path, *_ in entry["files"]]:
            return None
        if entry["hub"] and str(hub.cached(*entry["hub"])) != entry["looked_up"]:
            return None
        fields = entry["identity"]
        return Identity(
            **{**fields, "tower": Tower(**fields["tower"]), "mean": tuple(fields["mean"]), "std": tuple(fields["std"])}
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no memo, or one from another version: the model itself says


def note(choice: Choice, files: Files, identity: Identity) -> None:
    """Add to the memo by rename; two writers at once may lose a note, which only costs a rebuild."""
    path = _path()
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        noted = None
    entries = noted if isinstance(noted, dict) else {}
    entries[_key(choice)] = {
        "identity": asdict(identity),
        "files": [_stamp(file) for file in files.all],
        "hub": files.hub,
        "looked_up": str(files.looked_up) if files.hub else None,
    }
    with replacing(path) as temporary:
        temporary.write_text(canonical_json(entries), encoding="utf-8")


def _key(choice: Choice) -> str:
    return f"{choice.architecture}|{choice.weights}|{choice.precision}|open_clip {version('open_clip_torch')}"


def _path() -> Path:
    return home() / "backbones.json"


def _stamp(path: Path) -> list[str | int]:
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns]
