"""`featcache datasets`: the data sets of the catalogue, what of them is here, and how the rest is got."""

from __future__ import annotations

import json as jsonlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featcache.commands import completing
from featcache.errors import ConfigError, DataError, FeatcacheError, UnknownNameError
from featcache.interrupts import code_of

if TYPE_CHECKING:
    from featcache.datasets import Source
    from featcache.datasets.about import Download
    from featcache.datasets.downloads import Obtained

app = typer.Typer(help="The data sets of the catalogue: ls, info, prepare.", no_args_is_help=True)
_Data = Annotated[
    Path | None, typer.Option(envvar="FEATCACHE_DATA", help="Folder that holds data sets in CoOp's layout.")
]
_FORMATS = ("table", "markdown", "json")


@app.command()
def ls(
    data: _Data = None,
    format: Annotated[
        str, typer.Option(help="table, json, or markdown: the page docs/datasets.md, without what is here.")
    ] = "table",
) -> None:
    """List the data sets, with what a glance finds of them under --data."""
    from featcache import console
    from featcache.datasets import CATALOGUE
    from featcache.datasets.inventory import NO_ROOT, count, overview, page

    if format not in _FORMATS:
        raise ConfigError(f"--format {format} is not known; use {', '.join(_FORMATS)}")
    if format == "markdown":
        console.raw(page(CATALOGUE).rstrip("\n"))
        return
    lines = [overview(name, source, data) for name, source in CATALOGUE.items()]
    if format == "json":
        console.raw(jsonlib.dumps(lines, indent=2))
        return
    console.table(
        ["name", "classes", "train", "val", "test", "licence", "here"],
        [
            [
                line["name"],
                *(count(line[key]) for key in ("classes", "train", "val", "test")),
                line["licence"],
                line["here"],
            ]
            for line in lines
        ],
    )
    if data is None:
        console.note(f"{NO_ROOT}: then the last column says which are here")


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="A data set of the catalogue.", autocompletion=completing.datasets)],
    data: _Data = None,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show all that is known of a data set, and whether it loads from --data as published."""
    from featcache import console
    from featcache.datasets.inventory import facts

    known = facts(name, _source(name), data)
    if json:
        console.raw(jsonlib.dumps(known, indent=2))
        return
    by_hand = known.pop("by hand")
    console.table(["what", "value"], [[key, _cell(value)] for key, value in known.items()])
    if by_hand:
        console.say("by hand:")
        console.raw(by_hand)


@app.command()
def prepare(
    names: Annotated[list[str], typer.Argument(help="Data sets of the catalogue.", autocompletion=completing.datasets)],
    data: _Data = None,
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Keep archives once they are unpacked.")
    ] = False,
) -> None:
    """Download data sets into CoOp's layout below --data; what cannot be downloaded is explained.

    What is there already stays; a download that was cut goes on. Archives are checked before they are unpacked and
    removed afterwards. Exit code 1 says that something is left to do by hand.
    """
    from featcache import console

    wanted = list(dict.fromkeys(part for name in names for part in name.split(",") if part))
    sources = {name: _source(name) for name in wanted}  # a misspelt name is told before hours of download
    complete, failed = True, []
    for name, source in sources.items():
        try:
            complete &= _prepare(name, source, data, keep_archives=keep_archives)
        except FeatcacheError as error:
            if len(sources) == 1:
                raise
            console.fail(f"{name}: {error}")
            failed.append(name)
        except KeyboardInterrupt as stop:
            console.warn("stopped; what came is kept, and the same command goes on from there")
            raise typer.Exit(code_of(stop)) from None
    if failed:
        raise DataError(
            f"{len(failed)} of {len(sources)} data sets are not prepared, as said above: {', '.join(failed)}"
        )
    if not complete:
        raise typer.Exit(1)


def _prepare(name: str, source: Source, data: Path | None, *, keep_archives: bool) -> bool:
    """Whether the data set loads, after all that can be downloaded was."""
    from featcache import console
    from featcache.datasets.downloads import RECORD
    from featcache.datasets.inventory import condition

    if not source.folder:
        console.say(f"{name}: featcache renders it, nothing is needed")
        return True
    if data is None:
        raise ConfigError(f"prepare needs to know where {name} shall lie: give --data ROOT, or set FEATCACHE_DATA")
    folder = data.expanduser().absolute() / source.folder
    failures = _download(name, source, data, keep_archives=keep_archives)
    found = condition(name, source, data)
    if source.about.by_hand and not found.whole:
        console.say(f"{name}: left to do by hand, below {folder.parent}:")
        console.raw(source.about.by_hand)
    if failures:
        raise DataError("; ".join(failures))
    if found.manifest is None:
        if not source.about.by_hand:
            raise DataError(
                f"{name} is downloaded but does not load: {found.problem}; to have it all fetched anew, remove "
                f"{folder / RECORD}"
            )
        console.warn(f"{name} is not complete yet: {found.problem}")
        return False
    sizes = ", ".join(f"{split} {len(items.label):,}" for split, items in found.manifest.splits.items())
    console.say(f"{name}: {len(found.manifest.classes)} classes, {sizes}; splits from {found.manifest.source}")
    if found.differences:
        console.warn(f"{name} differs from what is published: {'; '.join(found.differences)}")
    command = ["featcache", "extract", "--dataset", name, "--data", str(data), "--backbone", "RN50"]
    console.say(f"next: {shlex.join(command)}")
    return True


def _download(name: str, source: Source, data: Path, *, keep_archives: bool) -> list[str]:
    """What went wrong, a message for each download that failed; the others are done."""
    from featcache import console
    from featcache.datasets.downloads import alone, check_room

    folder = data.expanduser().absolute() / source.folder
    downloads = source.about.downloads
    files = [download for download in downloads if download.unpack is None]
    archives = [download for download in downloads if download.unpack is not None]
    failures: list[str] = []
    fetched = 0
    with alone(folder):
        # Files first: a split file may be all that images which the user brought are waiting for.
        for group in (files, archives):
            lacking = _lacking(name, source, data, group)
            check_room(folder, lacking)
            for download in lacking:
                try:
                    _say_obtained(_obtain(download, folder, source, keep_archives=keep_archives), folder)
                except DataError as error:
                    failures.append(str(error))
                fetched += 1
    if not fetched:
        console.note(f"{name}: there is nothing left to download")
    return failures


def _lacking(name: str, source: Source, data: Path, group: list[Download]) -> list[Download]:
    """Those of the group that are to be got; of a data set that loads as published only files that are not there."""
    from featcache.datasets.downloads import outstanding
    from featcache.datasets.inventory import condition

    folder = data.expanduser().absolute() / source.folder
    left = outstanding(folder, group)
    if left and condition(name, source, data).whole:
        return [download for download in left if download.unpack is None and not (folder / download.file).exists()]
    return left


def _obtain(download: Download, folder: Path, source: Source, *, keep_archives: bool) -> Obtained:
    from featcache import console
    from featcache.datasets.downloads import obtain

    console.note(f"{download.file} from {download.url}")
    with console.byte_progress(download.file) as progress:
        return obtain(download, folder, page=source.about.link, progress=progress, keep_archive=keep_archives)


def _say_obtained(obtained: Obtained, folder: Path) -> None:
    from featcache import console

    download = obtained.download
    if download.checksum:
        checked = f"{download.checksum.partition(':')[0]} as stated"
    else:
        checked = f"its publisher states no checksum, so none was checked; sha256 {obtained.sha256}"
    unpacked = "" if download.unpack is None else f"; {obtained.num_files:,} files unpacked"
    console.say(f"{folder / download.file}: {checked}{unpacked}")


def _source(name: str) -> Source:
    from featcache.datasets import CATALOGUE, known

    if name not in CATALOGUE:
        raise UnknownNameError("data set", name, known())
    return CATALOGUE[name]


def _cell(value: Any) -> str:
    from featcache.datasets.inventory import megabytes

    match value:
        case str():
            return value
        case dict():
            return ", ".join(f"{key} {_cell(inner)}" for key, inner in value.items())
        case [{"file": _}, *_]:
            lines = (f"{one['file']}, {megabytes(one['size_bytes'])}, {one['checksum']}, {one['url']}" for one in value)
            return "\n".join(lines)
        case list():
            return "\n".join(value) or "none"
        case _:
            return f"{value:,}"
