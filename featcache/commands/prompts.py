"""`featcache prompts`: the text sets of a store, and adding to them without the images."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated

import typer

from featcache.commands import completing
from featcache.errors import ConfigError, InputError

app = typer.Typer(help="Text sets: ls, add.", no_args_is_help=True)
_Store = Annotated[
    str | None,
    typer.Argument(help="A name, key prefix or path. Default: the newest store.", autocompletion=completing.stores),
]


@app.command()
def ls(store: _Store = None) -> None:
    """List a store's text sets, and those that can be added."""
    from featcache import console
    from featcache.prompts import SHIPPED
    from featcache.store import Store
    from featcache.store.places import resolve

    with Store(resolve(store)) as opened:
        rows = []
        for name in opened.text_sets:
            text = opened.text(name)
            made_of = text.templates[0] if len(text.templates) == 1 else f"{len(text.templates)} templates"
            made_of = made_of if text.templates else "descriptions"
            example = text.sentences[0] if text.sentences else "imported: not said"
            rows.append([name, str(len(text.label)), made_of, example])
        console.table(["set", "sentences", "made of", "first sentence"], rows, title=f"text sets of {opened.name}")
        for name, (_, words) in SHIPPED.items():
            if name not in opened.text_sets:
                console.say(f"can be added: {name}, {words}")
    console.say("can be added: FILE.txt, one template a line; FILE.json, {class: [sentence, ..]}")


@app.command()
def add(
    store: Annotated[str, typer.Argument(help="A name, key prefix or path.", autocompletion=completing.stores)],
    sets: Annotated[str, typer.Argument(help="paper-7, openai-80, FILE.txt or FILE.json; several by commas.")],
    backbone: Annotated[
        str | None, typer.Option(help="What encodes them. Default: the backbone the store was extracted with.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Its weights, as for extract.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Encode new text sets into a store; its images are neither needed nor touched."""
    from featcache import console
    from featcache.backbones.of_store import backbone_of
    from featcache.commands.running import stoppable
    from featcache.devices import pick_device
    from featcache.prompts import DEFAULT, Encoded, encode_set, prompt_set
    from featcache.store import Store, write_store
    from featcache.store.claims import turn
    from featcache.store.copying import contents_of
    from featcache.store.places import resolve

    with Store(resolve(store)) as opened:
        encoder = backbone_of(opened, backbone, weights)
        template = str(opened.provenance.get("template", "a photo of a {}."))
        held = {name: opened.text(name) for name in opened.text_sets}
        made: dict[str, Encoded] = {}
        through = partial(encoder.encode_texts, device=pick_device(device))
        for name in dict.fromkeys(word.strip() for word in sets.split(",")):
            prompts = prompt_set(name, opened.classes, opened.class_ids, template=template)
            before = held.get(prompts.name)
            if prompts.name in made:
                raise ConfigError(
                    f"two of the prompt sets asked for are called {prompts.name}; rename one of the files"
                )
            if before is not None and before.origin == prompts.origin(encoder.identity.tower):
                console.say(f"{prompts.name}: there already")
                continue
            if before is not None and prompts.name == DEFAULT and not before.sentences:
                raise ConfigError(f"the default text of {opened.name} was imported and is not written over")
            with stoppable("nothing was added; the same command adds it"):
                made[prompts.name] = encode_set(prompts, held.values(), encoder.identity.tower, through)
    if not made:
        return
    with turn(opened.path), Store(opened.path) as now:  # rows or sets may have come while the texts were encoded
        contents = contents_of(now)
        if (now.key, now.class_ids, now.classes) != (opened.key, opened.class_ids, opened.classes):
            raise InputError(f"{opened.name} got other classes meanwhile, so nothing is added; run the command again")
        write_store(
            now.path, replace(contents, text={**contents.text, **{name: one.text for name, one in made.items()}})
        )
    for name, (text, num_new) in made.items():
        how = "replaced in" if name in held else "added to"
        some = "" if num_new == len(text.label) else f" ({num_new:,} encoded, the others were there)"
        console.say(f"{name}: {len(text.label):,} sentences {how} {opened.name}{some}; fit with --prompts {name}")
