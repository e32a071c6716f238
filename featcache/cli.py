"""The `featcache` command: parse, call, print. Imports of torch and open_clip wait inside the commands."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from featcache import __version__, console, interrupts
from featcache.commands import completing, typed
from featcache.commands.adapters import Folder, use
from featcache.commands.adapters import app as adapters_app
from featcache.commands.backbones import app as backbones_app
from featcache.commands.cache import app as cache_app
from featcache.commands.datasets import app as datasets_app
from featcache.commands.heads import export_command, predict_command
from featcache.commands.jsonable import give_json
from featcache.commands.listing import app as results_app
from featcache.commands.prompts import app as prompts_app
from featcache.commands.running import loading, stoppable
from featcache.errors import ConfigError, FeatcacheError


class _Commands(TyperGroup):
    """The commands, each of which a signal ends in one line that says how to go on."""

    def invoke(self, ctx: Any) -> Any:
        """What the command gives. Ctrl-C would otherwise end in click's `Aborted!` and exit code 1."""
        with stoppable("what was finished is kept, and the same command goes on from there"):
            return super().invoke(ctx)


app = typer.Typer(
    name="featcache",
    cls=_Commands,
    help="Extract CLIP features once, then search few-shot adapters on them in seconds.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(datasets_app, name="datasets")
app.add_typer(backbones_app, name="backbones")
app.add_typer(adapters_app, name="adapters")
app.add_typer(cache_app, name="cache")
app.add_typer(prompts_app, name="prompts")
app.add_typer(results_app, name="results")
app.command(name="export")(export_command)
app.command(name="predict")(predict_command)
_debug = False


def main() -> None:
    """Run the command line; a user's fault ends in one message and exit code 2, Ctrl-C in one and 130."""
    interrupts.listen()
    # torch then asks for huge pages: wide stacks fit up to 20 % faster
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    failure = None
    try:
        give_json(typer.main.get_command(app))()
    except KeyboardInterrupt as stop:
        console.warn("stopped; what was finished is kept, and the same command goes on from there")
        sys.exit(interrupts.code_of(stop))
    except FeatcacheError as error:
        if _debug:
            raise
        failure = str(error)
        console.fail(failure)
        sys.exit(2)
    except OSError as error:
        # Wherever a path is first looked for: one that is too long for a name, or in a folder not open to the user.
        # Without a name it is the output's: files of ours that cannot be written have a message of their own.
        full = error.errno == errno.ENOSPC and error.filename is None
        if _debug or not (full or error.errno in (errno.ENAMETOOLONG, errno.EACCES)):
            raise
        failure = f"cannot {'write' if full else f'use the path {str(error.filename)!r}'}: {error.strerror}"
        console.fail(failure)
        sys.exit(2)
    finally:
        console.tell_collected(failure)


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
    dataset: Annotated[
        str,
        typer.Option(
            help="Names (`featcache datasets ls`), folder:PATH, csv:FILE or hf:NAME; several by commas.",
            autocompletion=completing.datasets,
        ),
    ],
    backbone: Annotated[
        str,
        typer.Option(
            help="tiny (bundled), RN50, ViT-B-32, any open_clip model or model/tag; several by commas.",
            autocompletion=completing.backbones,
        ),
    ],
    data: Annotated[
        Path | None, typer.Option(envvar="FEATCACHE_DATA", help="Folder that holds data sets in CoOp's layout.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="A pretrained tag, a file, or random:SEED. Default: OpenAI's, or tiny's own."),
    ] = None,
    precision: Annotated[str, typer.Option(help="Arithmetic of the encoder: fp32, bf16 or fp16.")] = "fp32",
    compiled: Annotated[
        bool, typer.Option("--compile", help="torch.compile the image tower: another precision.")
    ] = False,
    shots: Annotated[str, typer.Option(help="Draws to hold: images a class.")] = "1,2,4,8,16",
    seeds: Annotated[str, typer.Option(help="Draws to hold: seeds.")] = "1,2,3",
    all_train: Annotated[bool, typer.Option("--all-train", help="Every training image, not only the draws'.")] = False,
    views: Annotated[int, typer.Option(help="Augmented views of each training image.")] = 10,
    style: Annotated[
        str, typer.Option(help="Test preprocessing: coop (squash), coop-2021 or clip (short side, centre crop).")
    ] = "coop",
    crop_scale: Annotated[
        str, typer.Option(help="Share of the image an augmented view shows: 0.08:1 as CoOp, 0.5:1 as Tip-Adapter.")
    ] = "0.08:1",
    pixels: Annotated[
        str,
        typer.Option(
            help="Who resizes: pil (the reference), torch (faster), or device (it decodes too: for a GPU that waits). "
            "Refused where embeddings drift."
        ),
    ] = "pil",
    allow_drift: Annotated[bool, typer.Option("--allow-drift", help="However far they drift.")] = False,
    dtype: Annotated[str, typer.Option(help="How embeddings are stored: float16, float32, auto.")] = "auto",
    template: Annotated[
        str | None, typer.Option(help='Prompt in place of the data set\'s own, as in "a photo of a {}."')
    ] = None,
    classnames: Annotated[
        Path | None, typer.Option(help="Text file with one class name a line, by class index.")
    ] = None,
    prompts: Annotated[
        str, typer.Option(help="Text sets to add: paper-7, openai-80, FILE.txt (templates), FILE.json (descriptions).")
    ] = "default",
    on_bad_image: Annotated[
        str, typer.Option(help="fail, or skip: stored as missing and named in every result.")
    ] = "fail",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    workers: Annotated[int | None, typer.Option(min=0, help="Decoding processes. Default: one a core.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Views a forward pass.")] = 64,
    engine: Annotated[
        str,
        typer.Option(help="Who encodes: here, torchrun (its processes) or ray (a cluster; needs the extra ray)."),
    ] = "here",
    layout: Annotated[
        str | None,
        typer.Option(help="whole: one file (default). virtual: a small file that shows the shards' own files as one."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The store's name.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print the plan and stop.")] = False,
) -> None:
    """Encode a data set's images and prompts once, into a store."""
    with loading():
        from featcache.commands import extracting
        from featcache.extraction import Request
        from featcache.extraction.asked import MachineOptions, Source

    if on_bad_image not in ("fail", "skip"):
        raise ConfigError(f"--on-bad-image {on_bad_image} is not known; use fail or skip")
    request = Request(
        shots=typed.ints(shots, "--shots"),
        shot_seeds=typed.ints(seeds, "--seeds"),
        num_views=views,
        all_train=all_train,
        style=style,
        crop_scale=typed.crop_scale(crop_scale),
        pixels=pixels,
        prompts=typed.words(prompts, "--prompts"),
        dtype=dtype,
        layout=layout,
        name=name,
        skip_unreadable=on_bad_image == "skip",
    )
    sources = [
        Source(
            dataset=one_dataset,
            backbone=one_backbone,
            data=data,
            weights=weights,
            precision=precision + ("-compiled" if compiled else ""),
            template=template,
            classnames=classnames,
        )
        # Backbones are the outer loop: a model is built once for all data sets.
        for one_backbone in typed.words(backbone, "--backbone")
        for one_dataset in typed.datasets(dataset)
    ]
    machine = MachineOptions(
        device=device, workers=workers, batch_size=batch_size, engine=engine, allow_drift=allow_drift
    )
    extracting.extract(sources, request, machine, only_plan=plan)


@app.command(name="fit")
def fit_command(
    stores: Annotated[
        list[str] | None,
        typer.Argument(
            help="Names, key prefixes or paths. Default: the newest store.", autocompletion=completing.stores
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every store that has training rows.")] = False,
    alpha_grid: Annotated[
        str | None, typer.Option(help="Short for --grid alpha=...: start:stop:step, both ends tried, or a list.")
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(help="FIELD=VALUES to search, any number of times (`featcache adapters info`); lr, momentum too."),
    ] = None,
    adapter: Annotated[
        str, typer.Option(help="The method's name; several by commas; all.", autocompletion=completing.adapters)
    ] = "clip_adapter",
    shots: Annotated[
        str | None, typer.Option(help="Images a class; a list fits each. Default: the largest extracted.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Draws. Default: all extracted.")] = None,
    init_seeds: Annotated[
        str | None,
        typer.Option(help="Fit each draw from each of these starts. Default: one, the draw's own seed."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Training recipe: coop, adamw, paper, tip-adapter-f, ape-t, taskres. Default: the method's.",
            autocompletion=completing.presets,
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="In place of the preset's.")] = None,
    lr: Annotated[float | None, typer.Option(help="In place of the preset's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="In place of the preset's.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="In place of the preset's.")] = None,
    momentum: Annotated[float | None, typer.Option(help="In place of the preset's; SGD's alone.")] = None,
    last_batch: Annotated[
        str | None, typer.Option(help="A smaller last batch: drop it, as Dassl, or keep it. Default: the preset's.")
    ] = None,
    products: Annotated[
        str | None,
        typer.Option(help="Matrix products of training: fp32, tf32 (CUDA), bf16 (CPU); see `featcache bench`."),
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(
            help="Selection protocol. Default: fewshot-val, or train-holdout without val.",
            autocompletion=completing.protocols,
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(help="The text set; A+B averages two, A,B fits each (`featcache prompts ls`). Default: default."),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(help="Text that a result has learnt (coop), by its id; ID+default averages it with a prompt set."),
    ] = None,
    classes: Annotated[str, typer.Option(help="all, or CoOp's halves: base, new.")] = "all",
    also: Annotated[
        str | None,
        typer.Option(help="Test the chosen runs on these stores or data sets too, by commas; new is the other half."),
    ] = None,
    post_hoc_alpha: Annotated[
        str | None, typer.Option(help="Blend each trained head at these alphas afterwards: not a training at each.")
    ] = None,
    views: Annotated[
        str | None,
        typer.Option(help="A draw's augmented views: turn (one an epoch), all, mean. Default: as the method."),
    ] = None,
    adapters_dir: Folder = None,
    choose: Annotated[str, typer.Option(help="One choice per-draw, or pooled: one for all draws.")] = "per-draw",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    engine: Annotated[
        str,
        typer.Option(help="here, one search after another, or ray, each a task of a cluster (extra ray)."),
    ] = "here",
    plot: Annotated[Path | None, typer.Option(help="Draw the alpha curve into this PNG, SVG or PDF file.")] = None,
    log: Annotated[
        list[str] | None, typer.Option(help="Tell a tracker too: tensorboard:DIR, wandb[:PROJECT] or mlflow[:URI].")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Fit an adapter at every alpha on every draw at once, choose alpha honestly, then test."""
    with loading():
        from featcache import fit_options
        from featcache.commands import fitting
        from featcache.commands.stores import every_store, stores_named

    use(adapters_dir)
    if every and stores:
        raise ConfigError(f"--all means every store, but {', '.join(stores)} is named too; say one of the two")
    options = fit_options.FitOptions(
        adapters=typed.words(adapter, "--adapter"),
        grid=(*([f"alpha={alpha_grid}"] if alpha_grid is not None else []), *(grid or [])),
        post_hoc_alpha=post_hoc_alpha,
        views=views,
        choose=choose,
        shots=typed.ints(shots, "--shots") if shots else (None,),
        shot_seeds=typed.ints(seeds, "--seeds") if seeds else None,
        init_seeds=typed.ints(init_seeds, "--init-seeds") if init_seeds else None,
        preset=preset,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        weight_decay=weight_decay,
        momentum=momentum,
        last_batch=last_batch,
        products=products,
        select=select,
        prompts=typed.text_sets(prompts, text),
        classes=classes,
        also=typed.words(also, "--also") if also else (),
        device=device,
        engine=engine,
    )
    chosen = every_store() if every else stores_named(stores or [])
    fitting.fit(chosen, options, plot=plot, as_json=json, log=log or [])


@app.command(name="doctor")
def doctor_command(json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """Show versions, device, cache folder and space, and what is missing with how to get it."""
    from featcache.commands import doctor

    doctor.doctor(as_json=json)


@app.command(name="rerun")
def rerun_command(
    result: Annotated[
        int,
        typer.Argument(metavar="ID", help="A result's id, as `results` lists it.", autocompletion=completing.results),
    ],
    adapters_dir: Folder = None,
    device: Annotated[str | None, typer.Option(help="In place of the device that the result names.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Make a result again from its row alone: bit-equal on the same machine and versions, else within one item."""
    with loading():
        from featcache.commands import rerunning

    use(adapters_dir)
    rerunning.rerun(result, device=device, as_json=json)


@app.command(name="run")
def run_command(
    file: Annotated[Path, typer.Argument(help="A plan in TOML: data sets, backbones, fits.")],
    data: Annotated[
        Path | None, typer.Option(envvar="FEATCACHE_DATA", help="Folder that holds data sets in CoOp's layout.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    workers: Annotated[int | None, typer.Option(min=0, help="Decoding processes. Default: one a core.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Views a forward pass.")] = 64,
    engine: Annotated[str, typer.Option(help="here, or ray: shards and searches are tasks of a cluster.")] = "here",
    adapters_dir: Folder = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print what is done and what is left, and stop.")] = False,
) -> None:
    """Carry out a whole plan of extractions and fits; done parts are not done again."""
    with loading():
        from featcache.commands import plan_file
        from featcache.extraction.asked import MachineOptions

    use(adapters_dir)
    machine = MachineOptions(device=device, workers=workers, batch_size=batch_size, engine=engine)
    plan_file.run(file, data=data, machine=machine, only_plan=plan)


@app.command(name="import")
def import_command(
    path: Annotated[
        Path,
        typer.Argument(
            help="An .npz with train_features, train_labels, test_features, test_labels, ..., or a peer's folder."
        ),
    ],
    name: Annotated[str, typer.Option(help="The store's name.")],
    kind: Annotated[
        str | None, typer.Option("--from", help="npz (the default), tip-adapter, clip-benchmark or clip-retrieval.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="The data set's name in tables. Default: the store's.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="What made a peer's features, named as for extract: RN50, ViT-B-32, ...")
    ] = None,
    classnames: Annotated[
        Path | None, typer.Option(help="Text file with one class name a line, by class index, for a peer's folder.")
    ] = None,
    classifier: Annotated[
        Path | None, typer.Option(help="Text embeddings for a peer's folder: a tensor (width, classes) in a .pt file.")
    ] = None,
    shots: Annotated[int | None, typer.Option(help="Which cache, where a Tip-Adapter folder holds several.")] = None,
) -> None:
    """Make a store of features you have already, from an .npz or from a folder that a peer's code wrote."""
    from featcache.commands.importing import import_features
    from featcache.importing import Stated

    stated = Stated(backbone=backbone, classnames=classnames, classifier=classifier, shots=shots)
    import_features(path, name, kind=kind, dataset=dataset, stated=stated)


@app.command(name="report")
def report_command(
    ids: Annotated[
        list[int] | None, typer.Argument(metavar="[ID]...", help="Results to report on. Default: all of them.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write index.html into.")] = Path("report"),
    data: Annotated[
        Path | None, typer.Option(envvar="FEATCACHE_DATA", help="Folder that holds data sets, for thumbnails.")
    ] = None,
    images: Annotated[
        bool, typer.Option("--images/--no-images", help="Put small copies of test images into the page.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write one self-contained HTML page of all results: curves, tables, confusions, embeddings, provenance."""
    from featcache.commands import reporting
    from featcache.reporting.page.images import Images

    reporting.report(out, ids or [], images=Images(data, wanted=images), as_json=json)


@app.command(name="plot")
def plot_command(
    kind: Annotated[
        str,
        typer.Argument(help=f"{', '.join(completing.PLOTS)}.", autocompletion=completing.plots),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG, SVG or PDF file; several are numbered.")],
    ids: Annotated[
        list[int] | None, typer.Argument(metavar="[ID]...", help="Results to draw. Default: all of them.")
    ] = None,
    width: Annotated[int, typer.Option(min=200, max=4000, help="Pixels, before the PNG's doubling.")] = 560,
    json: Annotated[bool, typer.Option("--json", help="Print the files' names as JSON.")] = False,
) -> None:
    """Draw one kind of the report's plots for a paper."""
    from featcache.commands import reporting

    reporting.plot(kind, out, ids or [], width=width, as_json=json)


@app.command(name="bench")
def bench_command(
    store: Annotated[
        str | None,
        typer.Argument(help="A name, key prefix or path. Default: the newest store.", autocompletion=completing.stores),
    ] = None,
    shots: Annotated[int | None, typer.Option(min=1, help="Images a class. Default: the largest extracted.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Turns of each way.")] = 3,
    products: Annotated[
        str | None, typer.Option(help="Also train under such products, tf32 or bf16: the time and the accuracy.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Time the alpha grid on this machine: all runs stacked, against one alpha after another as peers write it."""
    with loading():
        from featcache.commands import benching
    from featcache.store.places import resolve

    benching.bench(resolve(store), shots=shots, repeats=repeats, device=device, as_json=json, products=products)


os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning barriers stall every other process on the machine
