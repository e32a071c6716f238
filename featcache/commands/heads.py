"""`featcache export` and `featcache predict`: how they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featcache.commands.adapters import Folder, use
from featcache.commands.running import loading


def export_command(
    result: Annotated[int, typer.Argument(metavar="ID", help="A result's id, as `results` lists it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write: NAME.safetensors or NAME.onnx.")],
    seed: Annotated[
        int | None, typer.Option(help="The draw. Default: the one that did best on what the protocol chose by.")
    ] = None,
    init_seed: Annotated[
        int | None, typer.Option(help="The start, where there are several. Default: as --seed.")
    ] = None,
    with_tower: Annotated[
        bool, typer.Option("--with-tower", help="ONNX: the image tower too, so that it takes pixels.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
    adapters_dir: Folder = None,
) -> None:
    """Write a result's chosen run as a head: a file that classifies embeddings, and images by `predict`."""
    with loading():
        from featcache.commands import exporting

    use(adapters_dir)
    exporting.export(result, output, seed=seed, init_seed=init_seed, with_tower=with_tower, as_json=json)


def predict_command(
    head: Annotated[Path, typer.Argument(help="A file that `export` wrote.")],
    images: Annotated[list[str], typer.Argument(help="Image files, folders, or - for a list of files on stdin.")],
    top: Annotated[int, typer.Option(min=1, help="Classes told of each image, likeliest first.")] = 1,
    form: Annotated[str, typer.Option("--format", help="table, csv or json.")] = "table",
    json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    backbone: Annotated[
        str | None, typer.Option(help="The head's backbone under another name; an import's head needs it.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Where its weights are, if not where they were.")] = None,
    style: Annotated[str | None, typer.Option(help="Preprocessing, for a head fitted on an import.")] = None,
    adapters_dir: Folder = None,
) -> None:
    """Classify images with a head. Exit code 1: some images could not be read; they are named, the rest is done."""
    with loading():
        from featcache.commands import predicting

    use(adapters_dir)
    failed = predicting.predict(
        head,
        images,
        top=top,
        form="json" if json else form,
        device=device,
        backbone=backbone,
        weights=weights,
        style=style,
    )
    if failed:
        raise typer.Exit(1)
