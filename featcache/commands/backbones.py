"""`featcache backbones`: look at the backbones that can be named."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from typing import Annotated

import typer

from featcache.errors import ConfigError

app = typer.Typer(help="The backbones that can be named: ls.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """The backbones that can be named: ls."""  # without a callback, typer makes the one command the whole app


@app.command()
def ls(
    every: Annotated[bool, typer.Option("--all", help="Every pretrained tag of open_clip as well.")] = False,
    local: Annotated[
        bool, typer.Option("--local", help="All whose weights are on this machine, and no other.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List backbones by what to type after --backbone. Builds no model and asks no network."""
    if every and local:
        raise ConfigError("--local looks through every tag already; leave out --all")
    from featcache import console
    from featcache.backbones import listing

    entries = (listing.on_this_machine if local else listing.every_tag if every else listing.short_names)()
    if json:
        console.raw(jsonlib.dumps([asdict(entry) for entry in entries], indent=2))
        return
    rows = [[e.name, str(e.dim), str(e.size), e.activation, "yes" if e.here else "no"] for e in entries]
    console.table(["backbone", "width", "pixels", "activation", "weights here"], rows)
    console.note(_MORE)


_MORE = (
    "also: any ARCHITECTURE/TAG (--all), hf-hub:OWNER/REPO, local-dir:PATH, and --weights FILE or random:SEED; "
    "weights that are not here are downloaded at the first extract"
)
