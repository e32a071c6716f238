"""`featcache import`: features made elsewhere."""

from __future__ import annotations

from pathlib import Path

from featcache import console
from featcache.importing import Stated, import_from
from featcache.importing.common import UNKNOWN
from featcache.store import Store


def import_features(path: Path, name: str, *, kind: str | None, dataset: str | None, stated: Stated) -> None:
    """Make a store of features made elsewhere and say what is in it."""
    with console.progress("importing", "row reads", rate="row reads") as advance:
        made = import_from(kind, path, name=name, dataset=dataset, stated=stated, progress=advance)
    with Store(made) as store:
        counts = ", ".join(f"{split} {store.num_rows(split):,}" for split in store.splits)
        text = f"text {len(store.classes)} x {store.dim}" if store.text_sets else "no text"
        console.say(
            f"{store.name}: {counts}, width {store.dim}, {len(store.classes)} classes, {text}, {store.norm} rows, "
            f"logit scale {store.logit_scale:.4g} ({store.provenance['logit_scale']})"
        )
        if "splits" in store.provenance:
            console.say(f"labels: {store.provenance['labels']}; splits: {store.provenance['splits']}")
        if "train" in store.splits and store.text_sets:
            console.say("next: featcache fit --alpha-grid 0:1:0.1")
        elif "train" in store.splits:
            backbone = store.provenance["backbone"]
            named = "NAME" if backbone == UNKNOWN else backbone
            console.say(f"next: featcache prompts add {store.name} default --backbone {named}")
