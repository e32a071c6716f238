"""The catalogue's entries: what they say, against what is published; and how unpacked archives come to lie."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from featcache import datasets
from featcache.datasets import CATALOGUE, catalogue, downloads
from featcache.datasets.coop import CoopLayout
from tests.layouts import FULL_SPLITS

# Images of train, val and test, and classes, as CoOp's DATASETS.md and the data sets' own pages have them.
PUBLISHED = {
    "imagenet": (1281167, None, 50000, 1000),
    "stanford_cars": (6509, 1635, 8041, 196),
    "ucf101": (7639, 1898, 3783, 101),
    "caltech101": (4128, 1649, 2465, 100),
    "oxford_flowers": (4093, 1633, 2463, 102),
    "sun397": (15880, 3970, 19850, 397),
    "dtd": (2820, 1128, 1692, 47),
    "eurosat": (13500, 5400, 8100, 10),
    "fgvc_aircraft": (3334, 3333, 3333, 100),
    "oxford_pets": (2944, 736, 3669, 37),
    "food101": (50500, 20200, 30300, 101),
    "imagenetv2": (None, None, 10000, 1000),
    "imagenet-sketch": (None, None, 50889, 1000),
    "imagenet-a": (None, None, 7500, 200),
    "imagenet-r": (None, None, 30000, 200),
}


# --- the entries


def test_the_whole_catalogue_is_there() -> None:
    shapes = {"shapes", "shapes-sketch", "shapes-noise"}
    assert set(CATALOGUE) == set(PUBLISHED) | shapes
    assert datasets.known() == sorted(CATALOGUE)
    assert CATALOGUE is catalogue.CATALOGUE


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_entry_says_what_it_is(name: str) -> None:
    entry = CATALOGUE[name]
    about = entry.about
    assert about.title
    assert about.licence
    assert "test" in about.sizes
    assert set(about.sizes) <= {"train", "val", "test"}
    if entry.folder:
        assert about.link.startswith("https://")
        assert about.downloads or about.by_hand
    else:
        manifest = datasets.load(name, data=None)
        assert about.sizes == {split: len(rows.path) for split, rows in manifest.splits.items()}
        assert about.num_classes == len(manifest.classes)


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name: str) -> None:
    about = CATALOGUE[name].about
    *sizes, num_classes = PUBLISHED[name]
    assert about.num_classes == num_classes
    assert about.sizes == {
        split: size for split, size in zip(("train", "val", "test"), sizes, strict=True) if size is not None
    }


def test_folders_are_coops_and_each_its_own() -> None:
    folders = {name: entry.folder for name, entry in CATALOGUE.items() if entry.folder}
    assert len(set(folders.values())) == len(folders)
    assert {name: folder for name, folder in folders.items() if name != folder} == {
        "caltech101": "caltech-101",
        "food101": "food-101",
        "imagenet-a": "imagenet-adversarial",
        "imagenet-r": "imagenet-rendition",
    }


def test_templates_are_coops() -> None:
    templates = {name: entry.template for name, entry in CATALOGUE.items() if isinstance(entry, CoopLayout)}
    plain = "a photo of a {}."
    assert {name: template for name, template in templates.items() if template != plain} == {
        "oxford_pets": "a photo of a {}, a type of pet.",
        "oxford_flowers": "a photo of a {}, a type of flower.",
        "fgvc_aircraft": "a photo of a {}, a type of aircraft.",
        "dtd": "{} texture.",
        "eurosat": "a centered satellite photo of {}.",
        "food101": "a photo of {}, a type of food.",
        "ucf101": "a photo of a person doing {}.",
    }
    assert all(template.count("{}") == 1 for template in templates.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_downloads_are_well_formed(name: str) -> None:
    files = [download.file for download in CATALOGUE[name].about.downloads]
    assert len(set(files)) == len(files)
    for download in CATALOGUE[name].about.downloads:
        assert download.url.startswith("https://")
        assert re.fullmatch("|md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", download.checksum)
        assert "/" not in download.file
        assert (download.unpack is not None) == download.file.endswith((".zip", ".tgz", ".tar", ".gz"))
        assert download.size_bytes is None or download.size_bytes > 0


@pytest.mark.parametrize(("name", "split"), FULL_SPLITS.items())
def test_whole_split_files_are_as_stated(real_data: Path, name: str, split: str) -> None:
    entry = CATALOGUE[name]
    file = real_data / "images" / entry.folder / f"split_zhou_{split}.full.json"
    content = json.loads(file.read_bytes())
    labels = {split: [label for _, label, _ in items] for split, items in content.items()}
    assert {split: len(rows) for split, rows in labels.items()} == dict(entry.about.sizes)
    assert set(labels["train"]) == set(labels["test"]) == set(range(entry.about.num_classes))
    (listed,) = (download for download in entry.about.downloads if download.file == f"split_zhou_{split}.json")
    assert listed.checksum == f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    assert listed.size_bytes == file.stat().st_size


# --- what archives hold comes to lie as CoOp has it

ARCHIVES: dict[str, dict[str, tuple[list[str], str]]] = {
    # file -> members as published, and where the first of them must end up
    "caltech101": {"caltech-101.zip": (["101_ObjectCategories/ant/a.jpg"], "101_ObjectCategories/ant/a.jpg")},
    "oxford_flowers": {"102flowers.tgz": (["jpg/image_00001.jpg"], "jpg/image_00001.jpg")},
    "dtd": {"dtd-r1.0.1.tar.gz": (["dtd/images/banded/a.jpg", "dtd/labels/l.txt"], "images/banded/a.jpg")},
    "eurosat": {"EuroSAT.zip": (["2750/Forest/Forest_1.jpg"], "2750/Forest/Forest_1.jpg")},
    "fgvc_aircraft": {
        "fgvc-aircraft-2013b.tar.gz": (
            ["fgvc-aircraft-2013b/data/images/1.jpg", "fgvc-aircraft-2013b/README.md"],
            "images/1.jpg",
        )
    },
    "oxford_pets": {
        "images.tar.gz": (["images/Abyssinian_1.jpg"], "images/Abyssinian_1.jpg"),
        "annotations.tar.gz": (["annotations/test.txt"], "annotations/test.txt"),
    },
    "food101": {"food-101.tar.gz": (["food-101/images/pizza/1.jpg"], "images/pizza/1.jpg")},
    "imagenetv2": {
        "imagenetv2-matched-frequency.tar.gz": (
            ["imagenetv2-matched-frequency-format-val/0/a.jpeg"],
            "imagenetv2-matched-frequency-format-val/0/a.jpeg",
        )
    },
    "imagenet-sketch": {"ImageNet-Sketch.zip": (["sketch/n01440764/a.JPEG"], "images/n01440764/a.JPEG")},
    "imagenet-a": {"imagenet-a.tar": (["imagenet-a/n01498041/a.jpg"], "imagenet-a/n01498041/a.jpg")},
    "imagenet-r": {"imagenet-r.tar": (["imagenet-r/n01443537/a.jpg"], "imagenet-r/n01443537/a.jpg")},
}


def archive(file: str, members: Iterable[str]) -> bytes:
    """An archive of the kind the name says; Caltech101's is the archive in an archive that it is published as."""
    data = io.BytesIO()
    if file == "caltech-101.zip":
        inner = archive("101_ObjectCategories.tar.gz", members)
        with zipfile.ZipFile(data, "w") as outer:
            outer.writestr("caltech-101/101_ObjectCategories.tar.gz", inner)
            outer.writestr("caltech-101/Annotations.tar", b"other things")
    elif file.endswith(".zip"):
        with zipfile.ZipFile(data, "w") as zipped:
            for member in members:
                zipped.writestr(member, b"x")
    else:
        with tarfile.open(fileobj=data, mode="w:gz" if file.endswith("gz") else "w") as tar:
            for member in members:
                info = tarfile.TarInfo(member)
                info.size = 1
                tar.addfile(info, io.BytesIO(b"x"))
    return data.getvalue()


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_unpack_into_coops_layout(tmp_path: Path, name: str) -> None:
    folder = tmp_path / CATALOGUE[name].folder
    listed = {download.file: download for download in CATALOGUE[name].about.downloads if download.unpack is not None}
    assert set(listed) == set(ARCHIVES[name])
    for file, (members, expected) in ARCHIVES[name].items():
        folder.mkdir(exist_ok=True)
        (folder / file).write_bytes(archive(file, members))
        stand_in = dataclasses.replace(listed[file], checksum="", size_bytes=None)
        downloads.obtain(stand_in, folder, page="", progress=lambda *_: None)
        assert (folder / expected).is_file()
