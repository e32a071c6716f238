"""`featcache doctor`: what is installed, where things lie, and what is missing with how to get it."""

from __future__ import annotations

import json as jsonlib
import os
import platform
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import cache_from_source, find_spec
from pathlib import Path
from typing import Any, NamedTuple

import typer

from featcache import __version__, console
from featcache.locations import home, results_path, stores_folder

_CORE = ("torch", "torchvision", "open_clip_torch", "numpy", "h5py", "pillow", "typer", "rich")
LOW_SPACE_BYTES = 5_000_000_000
"""Free space below which doctor speaks up: the views of a few ImageNet shots fill it."""


class Finding(NamedTuple):
    """Something that is not as it should be."""

    problem: str
    remedy: str
    fatal: bool
    """Whether commands fail of it; else something optional is missing."""


def doctor(*, as_json: bool) -> None:
    """Look, and print; exit code 1 where something keeps commands from working."""
    findings: list[Finding] = []
    facts = {
        "versions": _versions(findings),
        "device": _device(findings),
        "cache": _cache(findings),
        "extras": _extras(findings),
    }
    if as_json:
        console.raw(jsonlib.dumps({**facts, "findings": [one._asdict() for one in findings]}, indent=2))
    else:
        _show(facts, findings)
    if any(one.fatal for one in findings):
        raise typer.Exit(1)


def _versions(findings: list[Finding]) -> dict[str, str]:
    told = {"featcache": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in _CORE:
        try:
            told[name] = version(name)
        except PackageNotFoundError:
            told[name] = "not installed"
            findings.append(Finding(f"{name} is not installed", "pip install featcache", fatal=True))
    torch = find_spec("torch")
    if sys.dont_write_bytecode and torch and torch.origin and not Path(cache_from_source(torch.origin)).exists():
        problem = "Python compiles torch anew at every start, for seconds: PYTHONDONTWRITEBYTECODE is set"
        findings.append(Finding(problem, f"python -m compileall -q {Path(torch.origin).parents[1]}", fatal=False))
    return told


def _device(findings: list[Finding]) -> dict[str, Any]:
    """What fits and extracts run on. A torch that does not import is a finding, whatever it raises."""
    try:
        import torch

        from featcache.devices import machine, pick_device

        device = pick_device("auto")
        told: dict[str, Any] = {"default": str(device), **machine(str(device)), "cores": _cores()}
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            told |= {"gpu_free_bytes": free, "gpu_bytes": total, "cuda": torch.version.cuda}
        elif shutil.which("nvidia-smi"):
            findings.append(
                Finding(
                    "there is an NVIDIA driver, but torch finds no GPU",
                    "install the torch wheel that fits the driver's CUDA: https://pytorch.org/get-started/locally",
                    fatal=False,
                )
            )
        return told
    except (ImportError, OSError, RuntimeError) as error:
        findings.append(Finding(f"torch does not work: {error}", "pip install --force-reinstall torch", fatal=True))
        return {"default": "none"}


def _cache(findings: list[Finding]) -> dict[str, Any]:
    folder = home()
    stores = sorted(stores_folder().glob("*.h5"))
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if not _writable(there):
        remedy = "set FEATCACHE_HOME to a folder that you can write to"
        findings.append(Finding(f"the cache folder {folder} cannot be written", remedy, fatal=True))
    elif free < LOW_SPACE_BYTES:
        remedy = "set FEATCACHE_HOME to a larger disk, or remove stores with `featcache cache rm`"
        findings.append(Finding(f"{console.size(free)} are free at {folder}", remedy, fatal=False))
    data = os.environ.get("FEATCACHE_DATA")
    if data and not Path(data).is_dir():
        remedy = "make the folder, or unset the variable"
        findings.append(Finding(f"FEATCACHE_DATA names {data}, which is no folder", remedy, fatal=True))
    return {
        "folder": str(folder),
        "set_by": "FEATCACHE_HOME" if os.environ.get("FEATCACHE_HOME") else "the platform",
        "stores": len(stores),
        "stores_bytes": sum(path.stat().st_size for path in stores),
        "results_bytes": results_path().stat().st_size if results_path().is_file() else 0,
        "free_bytes": free,
        "data": data,
    }


def _extras(findings: list[Finding]) -> dict[str, dict[str, str]]:
    """Every extra of the package's own metadata -> its packages -> their versions; empty where one is missing."""
    found: dict[str, dict[str, str]] = {}
    for line in requires("featcache") or ():
        package, _, condition = line.partition(";")
        if "extra ==" not in condition:
            continue
        extra = condition.split("extra ==")[1].strip().strip("\"'")
        name = _bare(package)
        if extra not in _DEVELOPERS and name != "featcache":
            found.setdefault(extra, {})[name] = _installed(name)
    for extra, packages in found.items():
        missing = [name for name, there in packages.items() if not there]
        if missing:
            problem = f"the extra {extra} is not there ({', '.join(missing)})"
            findings.append(Finding(problem, f"pip install 'featcache[{extra}]'", fatal=False))
    return found


_DEVELOPERS = ("test", "dev", "docs")


def _bare(requirement: str) -> str:
    """`mkdocstrings[python]>=0.27` -> `mkdocstrings`."""
    end = next((at for at, mark in enumerate(requirement) if mark in "[<>=!~ ("), len(requirement))
    return requirement[:end].strip()


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "" if find_spec(name.replace("-", "_")) is None else "?"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _writable(folder: Path) -> bool:
    """Tried, not asked: permissions, quotas and read-only mounts all count."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _show(facts: dict[str, Any], findings: list[Finding]) -> None:
    device, cache = facts["device"], facts["cache"]
    rows = [[name, told] for name, told in facts["versions"].items()]
    rows += [[_name(name), _told(name, value)] for name, value in {**device, **cache}.items()]
    rows += [
        [f"extra {extra}", ", ".join(f"{name} {there or '(missing)'}" for name, there in packages.items())]
        for extra, packages in facts["extras"].items()
    ]
    console.table(["what", "found"], rows)
    for one in findings:
        (console.fail if one.fatal else console.warn)(f"{one.problem}; {one.remedy}")
    if not findings:
        console.say("nothing is missing")
    elif not any(one.fatal for one in findings):
        console.say("nothing that is needed is missing")


def _name(name: str) -> str:
    return {"default": "device", "folder": "cache folder", "data": "FEATCACHE_DATA"}.get(
        name, name.replace("_bytes", " size" if "free" not in name else " space").replace("_", " ")
    )


def _told(name: str, value: Any) -> str:
    return console.size(value) if name.endswith("_bytes") else "-" if value is None else str(value)
