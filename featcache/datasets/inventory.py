"""What the catalogue says of its data sets, and what of them is under the data root."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from featcache.datasets import Source, load
from featcache.datasets.about import About, Download
from featcache.datasets.downloads import left_over
from featcache.datasets.manifest import Manifest
from featcache.errors import DataError

SPLITS: Final = ("train", "val", "test")
NO_ROOT: Final = "--data ROOT or FEATCACHE_DATA says where data sets lie"

_PAGE: Final = """\
# Data sets

This page is what `featcache datasets ls --format markdown` prints. Folders and split files are CoOp's, so a data root
made for CoOp serves as it is. `featcache datasets info NAME` says all about one of them; `featcache datasets prepare
NAME --data ROOT` gets what can be downloaded, and prints what must be done by hand. Licences are as their publishers
state them; ask there before you publish anything.

"""


class Condition(NamedTuple):
    """How a data set is found when it is loaded."""

    manifest: Manifest | None
    problem: str
    """Why it does not load, empty where it does."""
    differences: tuple[str, ...]
    """How classes and split sizes differ from the published ones."""

    @property
    def whole(self) -> bool:
        """Whether it loads, with the published classes and sizes."""
        return self.manifest is not None and not self.differences


def condition(name: str, source: Source, data: Path | None) -> Condition:
    """How the data set is found under `data`: it is loaded, which lists its folders and reads its split files."""
    try:
        manifest = load(name, data=data)
    except DataError as error:
        return Condition(None, str(error), ())
    return Condition(manifest, "", tuple(differences(manifest, source.about)))


def differences(manifest: Manifest, about: About) -> list[str]:
    """How classes and split sizes differ from the published ones, a phrase each."""
    found = {split: len(manifest.splits[split].label) for split in SPLITS if split in manifest.splits}
    pairs = [("classes", len(manifest.classes), about.num_classes)]
    pairs += [(split, found.get(split, 0), about.sizes.get(split, 0)) for split in SPLITS]
    return [f"{what} {have:,} instead of {stated:,}" for what, have, stated in pairs if have != stated]


def presence(source: Source, data: Path | None) -> str:
    """What a glance says of the data set under `data`: "yes", "no", or "incomplete: .." with the reason.

    Only the folders and files at the top of its layout are looked for; `condition` looks for each image.
    """
    if not source.folder:
        return "built in"
    if data is None:
        return "?"
    folder = data.expanduser() / source.folder
    if not folder.is_dir():
        return "no"
    if cut := left_over(folder, source.about.downloads):
        return f"incomplete: {cut}"
    missing = [path for path in source.layout if not (folder / path).exists()]
    return f"incomplete: no {', '.join(missing)}" if missing else "yes"


def facts(name: str, source: Source, data: Path | None) -> dict[str, Any]:
    """All that is known of the data set, in JSON's types; it is loaded where `data` is given or nothing is on disk."""
    about = source.about
    known: dict[str, Any] = {
        "name": name,
        "title": about.title,
        "licence": about.licence,
        "link": about.link,
        "classes": about.num_classes,
        "images": dict(about.sizes),
        "template": source.template,
        "folder": _place(source, data),
        "layout": [f"{source.folder}/{path}" for path in source.layout],
        "downloads": [_download_facts(download) for download in about.downloads],
        "by hand": about.by_hand,
    }
    if source.folder and data is None:
        return {**known, "loads": f"not tried: {NO_ROOT}"}
    found = condition(name, source, data)
    if found.manifest is None:
        return {**known, "loads": f"no: {found.problem}"}
    return {
        **known,
        "loads": "yes",
        "found": {
            "classes": len(found.manifest.classes),
            "images": {split: len(items.label) for split, items in found.manifest.splits.items()},
            "splits from": found.manifest.source,
            "template": found.manifest.template,
        },
        "against the published": "; ".join(found.differences) or "equal",
    }


def overview(name: str, source: Source, data: Path | None) -> dict[str, Any]:
    """One line of the list of data sets, in JSON's types."""
    about = source.about
    return {
        "name": name,
        "title": about.title,
        "classes": about.num_classes,
        **{split: about.sizes.get(split) for split in SPLITS},
        "template": source.template,
        "licence": about.licence,
        "link": about.link,
        "got by": _way(about),
        "here": presence(source, data),
    }


def page(catalogue: Mapping[str, Source]) -> str:
    """docs/datasets.md: the same on every machine."""
    heads = ("name", "data set", "classes", *SPLITS, "single prompt", "licence", "got by")
    rows = []
    for line in (overview(name, source, None) for name, source in catalogue.items()):
        title = f"[{line['title']}]({line['link']})" if line["link"].startswith("http") else line["title"]
        counts = [count(line[key]) for key in ("classes", *SPLITS)]
        rows.append([f"`{line['name']}`", title, *counts, f"`{line['template']}`", line["licence"], line["got by"]])
    aligned = ["---:" if head in ("classes", *SPLITS) else "---" for head in heads]
    return _PAGE + "\n".join(_markdown_row(row) for row in (heads, aligned, *rows)) + "\n"


def count(number: int | None) -> str:
    """The number as people read it."""
    return "-" if number is None else f"{number:,}"


def megabytes(size: int | None) -> str:
    """A length as people read it."""
    return "size not stated" if size is None else f"{size / 1e6:,.1f} MB"


def _way(about: About) -> str:
    """How it comes to be there, in a few words."""
    downloads, by_hand = bool(about.downloads), bool(about.by_hand)
    if not downloads and not by_hand:
        return "built in"
    return " and ".join(["`prepare`"] * downloads + ["by hand"] * by_hand)


def _place(source: Source, data: Path | None) -> str:
    if not source.folder:
        return "none: featcache renders it"
    return str(data.expanduser().absolute() / source.folder) if data else f"ROOT/{source.folder}; {NO_ROOT}"


def _download_facts(download: Download) -> dict[str, Any]:
    return {
        "file": download.file,
        "url": download.url,
        "size_bytes": download.size_bytes,
        "checksum": download.checksum or "not stated",
        "unpacked": download.unpack is not None,
    }


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
