"""The `featcache` command: parse, call, print. Imports of torch and open_clip wait inside the commands."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from featcache import __version__
from featcache.cache_commands import app as cache_app
from featcache.errors import ConfigError, FeatcacheError

app = typer.Typer(
    name="featcache",
    help="Extract CLIP features once, then search few-shot adapters on them in seconds.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cache_app, name="cache")
_debug = False


def main() -> None:
    """Run the command line; a user's fault ends in one message and exit code 2."""
    try:
        app()
    except FeatcacheError as error:
        if _debug:
            raise
        from featcache import console

        console.fail(str(error))
        sys.exit(2)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"featcache {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")] = False,
    version: Annotated[  # noqa: ARG001 (its callback answers, before a command is missed)
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_say_version)
    ] = False,
) -> None:
    """Options before the command's name."""
    global _debug
    _debug = debug


@app.command(name="extract")
def extract_command(
    dataset: Annotated[str, typer.Option(help="A data set's name, or folder:PATH.")],
    backbone: Annotated[str, typer.Option(help="tiny (bundled), RN50, ViT-B-32, or any open_clip name.")],
    data: Annotated[
        Path | None, typer.Option(envvar="FEATCACHE_DATA", help="Folder that holds data sets in CoOp's layout.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="A pretrained tag, a file, or random:SEED. Default: OpenAI's, or tiny's own."),
    ] = None,
    shots: Annotated[str, typer.Option(help="Draws to hold: images a class.")] = "1,2,4,8,16",
    seeds: Annotated[str, typer.Option(help="Draws to hold: seeds.")] = "1,2,3",
    all_train: Annotated[bool, typer.Option("--all-train", help="Every training image, not only the draws'.")] = False,
    views: Annotated[int, typer.Option(help="Augmented views of each training image.")] = 10,
    style: Annotated[str, typer.Option(help="Test preprocessing: coop (squash) or clip (centre crop).")] = "coop",
    dtype: Annotated[str, typer.Option(help="How embeddings are stored: float16, float32, auto.")] = "auto",
    template: Annotated[
        str | None, typer.Option(help='Prompt in place of the data set\'s own, as in "a photo of a {}."')
    ] = None,
    classnames: Annotated[
        Path | None, typer.Option(help="Text file with one class name a line, by class index.")
    ] = None,
    on_bad_image: Annotated[
        str, typer.Option(help="fail, or skip: stored as missing and named in every result.")
    ] = "fail",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    workers: Annotated[int | None, typer.Option(min=0, help="Decoding processes. Default: one a core.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Views a forward pass.")] = 64,
    name: Annotated[str | None, typer.Option(help="The store's name.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print the plan and stop.")] = False,
) -> None:
    """Encode a data set's images and prompts once, into a store."""
    from featcache import commands
    from featcache.extraction import Request

    if on_bad_image not in ("fail", "skip"):
        raise ConfigError(f"--on-bad-image {on_bad_image} is not known; use fail or skip")
    request = Request(
        shots=_ints(shots, "--shots"),
        shot_seeds=_ints(seeds, "--seeds"),
        num_views=views,
        all_train=all_train,
        style=style,
        dtype=dtype,
        name=name,
        skip_unreadable=on_bad_image == "skip",
    )
    source = commands.Source(
        dataset=dataset, backbone=backbone, data=data, weights=weights, template=template, classnames=classnames
    )
    machine = commands.MachineOptions(device=device, workers=workers, batch_size=batch_size)
    commands.extract(source, request, machine, only_plan=plan)


@app.command(name="fit")
def fit_command(
    stores: Annotated[
        list[str] | None, typer.Argument(help="Names, key prefixes or paths. Default: the newest store.")
    ] = None,
    alpha_grid: Annotated[
        str | None, typer.Option(help="start:stop:step, both ends tried, or a list. Default: 0:1:0.1.")
    ] = None,
    adapter: Annotated[str, typer.Option(help="The method's name.")] = "clip_adapter",
    shots: Annotated[
        str | None, typer.Option(help="Images a class; a list fits each. Default: the largest extracted.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Draws. Default: all extracted.")] = None,
    preset: Annotated[str | None, typer.Option(help="Training recipe: coop (the default), adamw or paper.")] = None,
    epochs: Annotated[int | None, typer.Option(help="In place of the preset's.")] = None,
    lr: Annotated[float | None, typer.Option(help="In place of the preset's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="In place of the preset's.")] = None,
    select: Annotated[
        str | None, typer.Option(help="Selection protocol. Default: fewshot-val, or train-holdout without val.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    plot: Annotated[Path | None, typer.Option(help="Draw the alpha curve into this PNG, SVG or PDF file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Fit an adapter at every alpha on every draw at once, choose alpha honestly, then test."""
    from featcache import commands

    commands.fit(
        stores or [None],
        commands.FitOptions(
            adapter=adapter,
            alpha_grid=alpha_grid,
            shots=_ints(shots, "--shots") if shots else (None,),
            shot_seeds=_ints(seeds, "--seeds") if seeds else None,
            preset=preset,
            epochs=epochs,
            lr=lr,
            batch_size=batch_size,
            select=select,
            device=device,
            plot=plot,
            json=json,
        ),
    )


@app.command(name="import")
def import_command(
    file: Annotated[
        Path, typer.Argument(help="An .npz with train_features, train_labels, test_features, test_labels, ...")
    ],
    name: Annotated[str, typer.Option(help="The store's name.")],
) -> None:
    """Make a store of features you have already."""
    from featcache import commands

    commands.import_features(file, name)


@app.command(name="results")
def results_command(
    search: Annotated[int | None, typer.Argument(help="A result's id: shows all its runs.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many of the newest to list.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List what has been fitted, or show one search whole."""
    from featcache import commands

    commands.results(search, limit=limit, as_json=json)


_MAX_INT = 2**31 - 1  # what torch's generators and SQLite both hold, with room for the epochs' own streams


def _ints(text: str, option: str) -> tuple[int, ...]:
    try:
        values = tuple(int(item) for item in text.split(","))
    except ValueError:
        raise ConfigError(f"{option} {text}: a comma-separated list of whole numbers, as in 1,2,4") from None
    if min(values) < (1 if option == "--shots" else 0):
        raise ConfigError(f"{option} {text}: {'shots are 1 or more' if option == '--shots' else 'seeds are 0 or more'}")
    if max(values) > _MAX_INT:
        raise ConfigError(f"{option} {text}: numbers go up to {_MAX_INT}")
    return tuple(dict.fromkeys(values))


os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning barriers stall every other process on the machine
