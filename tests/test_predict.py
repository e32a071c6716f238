"""`featcache predict`: what a head says of image files, and what it says where it cannot."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featcache.errors import ConfigError, DataError
from featcache.heads.files import load_module
from featcache.importing import import_npz
from tests import synthetic
from tests.commandline import Run

QUICK = ("--shots", "3", "--seeds", "1", "--epochs", "3", "--alpha-grid", "0.4")


@pytest.fixture
def head(run: Run, pictures: Path, tmp_path: Path) -> Path:
    """A head fitted on the pictures, through the bundled backbone."""
    source = f"folder:{pictures}"
    done = run("extract", "--dataset", source, "--backbone", "tiny", "--shots", "3", "--seeds", "1", "--views", "1",
               "--workers", "0", "--batch-size", "16")  # fmt: skip
    assert done.code == 0, done.err
    assert run("fit", *QUICK).code == 0
    file = tmp_path / "head.safetensors"
    said = run("export", "1", "-o", file)
    assert said.code == 0, said.err
    return file


def test_the_test_images_are_classified_with_the_recorded_accuracy(head: Path, pictures: Path, run: Run) -> None:
    said = run("predict", head, pictures / "test", "--json")
    assert said.code == 0, said.err
    answers = json.loads(said.out)
    assert len(answers) == 15
    right = [Path(item["image"]).parent.name == item["predictions"][0]["class"] for item in answers]
    assert np.mean(right) == load_module(head).provenance["test_accuracy"]


def test_one_image_alone_is_told_the_same(head: Path, pictures: Path, run: Run) -> None:
    whole = json.loads(run("predict", head, pictures / "test", "--json", "--top", "3").out)
    (alone,) = json.loads(run("predict", head, whole[7]["image"], "--format", "json", "--top", "9").out)
    assert [item["class"] for item in alone["predictions"]] == [item["class"] for item in whole[7]["predictions"]]
    for one, other in zip(alone["predictions"], whole[7]["predictions"], strict=True):
        assert one["probability"] == pytest.approx(other["probability"], abs=2e-3)
    assert sum(item["probability"] for item in alone["predictions"]) == pytest.approx(1, abs=1e-5)


def test_what_is_no_path_among_good_ones_is_named_and_the_rest_done(
    head: Path, pictures: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = pictures / "test" / "ant" / "000.bmp"
    (tmp_path / "empty").mkdir()
    said = run("predict", head, "a" * 300 + ".jpg", tmp_path / "empty", good, "--format", "csv")
    assert said.code == 1
    assert "File name too long" in said.err
    assert "empty holds no image" in " ".join(said.err.split())
    assert said.out.count(str(good)) == 1
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{good}\0{good}\0\n"))  # as find -print0 writes them
    assert run("predict", head, "-", "--format", "csv").out.count(str(good)) == 2
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xd8\xff\xe0"), encoding="utf-8"))
    assert "stdin is no text" in run("predict", head, "-").err


def test_formats_and_stdin(head: Path, pictures: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted((pictures / "test" / "ant").iterdir())
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{file}\n" for file in files)))
    said = run("predict", head, "-", "--format", "csv", "--top", "2")
    assert said.code == 0
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert [row["image"] for row in rows] == [str(file) for file in files for _ in range(2)]
    assert [row["rank"] for row in rows] == ["1", "2"] * len(files)
    table = run("predict", head, files[0])
    assert table.code == 0
    assert rows[0]["class"] in table.out
    assert run("predict", head, files[0], "--format", "yaml").code == 2


def test_images_that_do_not_decode_are_named_and_the_others_done(
    head: Path, pictures: Path, tmp_path: Path, run: Run
) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(pictures / "test" / "ant", folder)
    (folder / "001.bmp").write_bytes(b"no image")
    (folder / ".hidden.bmp").write_bytes(b"passed over")
    (folder / "notes.txt").write_text("passed over")
    for form in ("json", "csv", "table"):
        said = run("predict", head, folder, folder / "absent.png", "--format", form)
        assert said.code == 1
        assert "001.bmp: its 8 bytes begin like none of" in said.err
        assert "absent.png: it cannot be read (No such file or directory)" in said.err
        assert "2 of 6 images could not be read" in said.err
        assert all(f"00{number}.bmp" in said.out for number in (0, 2, 3, 4))
    answers = json.loads(run("predict", head, folder, "--json").out)
    assert ["error" in answer for answer in answers] == [False, True, False, False, False]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "there is no image in" in run("predict", head, empty).err


def test_a_head_of_a_backbone_that_is_not_here(head: Path, pictures: Path, run: Run) -> None:
    image = pictures / "test" / "ant" / "000.bmp"
    other = run("predict", head, image, "--weights", "random:3")
    assert other.code == 2
    assert "fitted on embeddings of tiny" in other.err
    assert "but tiny with random:3 is tiny (checkpoint random:3" in other.err
    absent = run("predict", head, image, "--backbone", "local-dir:/nowhere")
    assert absent.code == 2
    assert "--backbone local-dir:/nowhere is not to be had here to compare with it" in absent.err
    style = run("predict", head, image, "--style", "clip")
    assert "leave --style clip out" in style.err
    assert run("predict", head, image, "--style", "coop").code == 0


def test_a_head_of_imported_features_needs_to_be_told_the_backbone(run: Run, tmp_path: Path, pictures: Path) -> None:
    import_npz(synthetic.save(tmp_path / "toy.npz", synthetic.arrays(dim=128)), name="toy")
    import_npz(synthetic.save(tmp_path / "narrow.npz", synthetic.arrays(dim=16)), name="narrow")
    image = pictures / "test" / "ant" / "000.bmp"
    for name in ("toy", "narrow"):
        assert run("fit", name, "--adapter", "zero_shot").code == 0
    file = tmp_path / "head.safetensors"
    assert run("export", "1", "-o", file).code == 0
    assert "say --backbone NAME" in run("predict", file, image).err
    assert "say --style, one of coop" in run("predict", file, image, "--backbone", "tiny").err
    said = run("predict", file, image, "--backbone", "tiny", "--style", "coop")
    assert said.code == 0, said.err
    assert run("export", "2", "-o", file).code == 0
    assert "width 16" in run("predict", file, image, "--backbone", "tiny", "--style", "coop").err


def test_from_python(head: Path, pictures: Path, run: Run) -> None:
    module = load_module(head)
    files = sorted((pictures / "test").rglob("*.bmp"))
    said = module.classify(files, top=2)
    answers = json.loads(run("predict", head, pictures / "test", "--json").out)
    assert [best.name for best, _ in said] == [answer["predictions"][0]["class"] for answer in answers]
    with Image.open(files[3]) as opened:
        ((of_image,),) = module.classify([opened])
    assert of_image.name == said[3][0].name
    with pytest.raises(DataError, match=r"absent.png: it cannot be read"):
        module.classify(["absent.png"])
    imported = load_module(head)
    object.__setattr__(imported.head.encoder, "imported", True)
    with pytest.raises(ConfigError, match="say --backbone NAME"):
        imported.classify(files)


def test_class_names_cannot_steer_the_terminal(head: Path, pictures: Path, run: Run) -> None:
    from featcache.heads.files import save_head

    module = load_module(head)
    object.__setattr__(module.head, "classes", ("\x1b[31mred", "[bold]b", "c\nd"))
    save_head(head, module.head)
    said = run("predict", head, pictures / "test" / "ant" / "000.bmp", "--top", "3")
    assert said.code == 0, said.err
    assert "\x1b" not in said.out
    assert "\\x1b[31mred" in said.out
    assert "[bold]b" in said.out


def test_predict_loads_neither_matplotlib_nor_the_results(head: Path, pictures: Path) -> None:
    code = (
        "import sys; from featcache import cli; sys.argv = ['featcache', 'predict', *sys.argv[1:]]\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print([name for name in ('matplotlib', 'sqlite3', 'featcache.search', 'pandas') if name in sys.modules])"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, head, pictures / "test" / "ant" / "000.bmp"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
