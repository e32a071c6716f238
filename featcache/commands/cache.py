"""`featcache cache`: look at stores, check them, mend them, compare them, remove them."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from featcache.commands import completing
from featcache.errors import ConfigError, FeatcacheError, InputError

app = typer.Typer(help="The stores in the cache: ls, info, verify, repair, diff, push, pull, rm.", no_args_is_help=True)
_Dataset = Annotated[
    str | None, typer.Option(help="The images, where they are no longer at folder:PATH or csv:FILE as it was typed.")
]
_Data = Annotated[Path | None, typer.Option(envvar="FEATCACHE_DATA", help="Folder that holds data sets.")]
_Name = Annotated[
    str | None,
    typer.Argument(help="A name, key prefix or path. Default: the newest store.", autocompletion=completing.stores),
]


@app.command()
def ls() -> None:
    """List the stores, newest first."""
    from featcache import console
    from featcache.store import Store
    from featcache.store.places import list_stores, stores_folder

    rows = []
    for path in list_stores():
        try:
            with Store(path) as store:
                rows.append(_line(store))
        except FeatcacheError:
            rows.append(
                [
                    path.stem,
                    "",
                    "unreadable: featcache cache verify says why",
                    "",
                    "",
                    console.size(path.stat().st_size),
                    "",
                ]
            )
    if not rows:
        console.say(f"no stores in {stores_folder()} yet")
        return
    console.table(["name", "key", "backbone", "train x views", "val / test", "size", "made (UTC)"], rows)


@app.command()
def info(name: _Name = None, json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """Show all that a store says of itself."""
    from featcache import console
    from featcache.store import Store
    from featcache.store.places import resolve

    with Store(resolve(name)) as store:
        facts = {
            "name": store.name,
            "file": str(store.path),
            "key": store.key,
            "content": store.content,
            "spec": jsonlib.loads(store.spec.to_json()),
            "classes": len(store.classes),
            "width": store.dim,
            "logit_scale": store.logit_scale,
            "norm": store.norm,
            "layout": store.layout,
            "splits": {
                split: {
                    "images in the data set": len(store.label(split)),
                    "stored": store.num_rows(split),
                    "views": store.num_views(split),
                    "unreadable": len(store.missing(split)),
                }
                for split in store.splits
            },
            "text sets": {
                name: {"sentences": len(store.text(name).label), "templates": list(store.text(name).templates)}
                for name in store.text_sets
            },
            "provenance": store.provenance,
            "created": store.created,
            "versions": store.versions,
        }
    if json:
        console.raw(jsonlib.dumps(facts, indent=2))
        return
    console.table(
        ["what", "value"],
        [[key, value if isinstance(value, str) else jsonlib.dumps(value)] for key, value in facts.items()],
    )


@app.command()
def verify(
    name: _Name = None,
    images: Annotated[bool, typer.Option("--images", help="Read the images too: are they what was encoded?")] = False,
    dataset: _Dataset = None,
    data: _Data = None,
) -> None:
    """Read every byte of a store and check it against its checksums."""
    from featcache import console
    from featcache.commands import repairing
    from featcache.store import Store
    from featcache.store.places import resolve

    path = resolve(name)
    if dataset is not None and not images:
        raise ConfigError("--dataset says where the images are, which only --images reads; say both or neither")
    rows = repairing.check(path)
    with Store(path) as store:
        console.say(f"{store.name} is sound: {rows:,} embeddings, content {store.content[:16]}")
    if images:
        same = repairing.check_images(path, repairing.Images(dataset=dataset, data=data))
        console.say(f"its {same:,} images are those that were encoded")


@app.command()
def repair(
    name: _Name = None,
    dataset: _Dataset = None,
    data: _Data = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    workers: Annotated[int | None, typer.Option(min=0, help="Decoding processes. Default: one a core.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Views a forward pass.")] = 64,
) -> None:
    """Make damaged rows, and those of changed images, anew from the images; the others stay."""
    from featcache.commands import repairing
    from featcache.extraction.asked import MachineOptions
    from featcache.store.places import resolve

    options = MachineOptions(device=device, workers=workers, batch_size=batch_size)
    repairing.repair(resolve(name), repairing.Images(dataset=dataset, data=data), options)


@app.command()
def diff(
    first: Annotated[str, typer.Argument(help="A name, key prefix or path.", autocompletion=completing.stores)],
    second: Annotated[str, typer.Argument(help="The one to hold against it.", autocompletion=completing.stores)],
) -> None:
    """Say how two stores differ; exit 1 when they do."""
    from featcache import console
    from featcache.store import Store
    from featcache.store.checking import diff as differences
    from featcache.store.places import resolve

    with Store(resolve(first)) as a, Store(resolve(second)) as b:
        found = differences(a, b)
        if not found:
            console.say(f"{a.name} and {b.name} hold the same, content {a.content[:16]}")
            return
        console.table(["what", a.name, b.name], found)
    raise typer.Exit(1)


@app.command()
def push(
    name: Annotated[str, typer.Argument(help="A name, key prefix or path.", autocompletion=completing.stores)],
    url: Annotated[str, typer.Argument(help="s3://BUCKET/FOLDER, gs://.., or a file's URL ending in .h5.")],
    force: Annotated[bool, typer.Option("--force", help="Replace another store that is there.")] = False,
) -> None:
    """Send a store elsewhere; `featcache fit URL` reads it there."""
    from featcache import console
    from featcache.store import elsewhere
    from featcache.store.places import resolve

    path = resolve(name)
    target = elsewhere.push(path, _url(url), force=force)
    console.say(f"{path.stem} is at {target} ({console.size(path.stat().st_size)})")


@app.command()
def pull(
    url: Annotated[str, typer.Argument(help="A store's URL, ending in .h5.")],
    name: Annotated[str | None, typer.Option(help="What to call it here. Default: as it is called there.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a store of that name.")] = False,
) -> None:
    """Bring a store from elsewhere into the cache."""
    from featcache import console
    from featcache.store import Store, elsewhere

    with Store(elsewhere.pull(_url(url), name, force=force)) as store:
        console.say(f"{store.name} is here, content {store.content[:16]}")


@app.command()
def rm(
    names: Annotated[list[str], typer.Argument(help="Names, key prefixes or paths.", autocompletion=completing.stores)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove stores and their unfinished parts."""
    from featcache import console
    from featcache.extraction.parts import read_parts, remove_parts
    from featcache.store.places import key_of, list_stores, resolve
    from featcache.store.virtual import forget

    paths = list(dict.fromkeys(resolve(name) for name in names))
    for path in paths:
        if key_of(path) is None and path not in list_stores():
            raise InputError(f"{path} is not a featcache store and not in the cache, so it is not ours to remove")
    for path in paths:
        size = console.size(_size(path))
        if not yes and not console.confirm(f"Remove {path} ({size})?"):
            raise InputError(f"{path.stem} is kept: removing it needs a yes; without a terminal say --yes")
        key = key_of(path)
        try:
            path.unlink()
            forget(path, ())
        except OSError as error:
            raise InputError(f"cannot remove {path}: {error.strerror}") from error
        if key is not None:
            remove_parts(key, tuple(read_parts(key)))
        console.say(f"removed {path.stem} ({size})")


def _url(text: str) -> str:
    from featcache.remote import is_url

    if not is_url(text):
        raise ConfigError(f"{text} is no URL; say where, as in s3://bucket/stores (for a folder of this machine, cp)")
    return text


def _line(store: object) -> list[str]:
    from featcache import console
    from featcache.store import Store

    assert isinstance(store, Store)
    counts = {split: store.num_rows(split) for split in store.splits}
    untrained = " (random weights)" if store.spec.tower.untrained else ""
    return [
        store.name,
        store.key[:8],
        str(store.provenance.get("backbone", store.spec.tower.architecture)) + untrained,
        f"{counts['train']:,} x {store.num_views('train')}" if "train" in counts else "-",
        f"{counts.get('val', 0):,} / {counts.get('test', 0):,}",
        console.size(_size(store.path)),
        store.created[:16].replace("T", " "),
    ]


def _size(path: Path) -> int:
    """Bytes of a store and of the files of embeddings beside it."""
    from featcache.store.virtual import parts_beside

    return sum(file.stat().st_size for file in (path, *parts_beside(path).glob("*")))
