"""Extraction: only what is missing is encoded, and however the work was cut up, the store comes out the same."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from featcache import datasets
from featcache.backbones import Backbone
from featcache.errors import ConfigError, DataError, StoreError
from featcache.extraction import Plan, Request, carry_out, make_plan, shards
from featcache.extraction.encode import Machine
from featcache.extraction.parts import read_parts
from featcache.fewshot import draw
from featcache.loading import draws_of, load_task
from featcache.store import Store
from featcache.store.checking import verify
from featcache.store.places import parts_folder
from featcache.task import Frozen
from tests.conftest import put_picture

FULL = Request(shots=(1, 4), shot_seeds=(1, 2), num_views=2)
ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Done:
    """What one extraction did."""

    plan: Plan
    backbone: Backbone
    encoded: int


def interrupt() -> None:
    raise KeyboardInterrupt


def plan_of(data: Path, request: Request = FULL, *, template: str | None = None) -> tuple[Plan, Backbone]:
    backbone = Backbone("tiny", "random:0")
    manifest = datasets.load(f"folder:{data}", data=None, template=template)
    return make_plan(manifest, backbone.identity, request), backbone


def extract(data: Path, request: Request = FULL, *, workers: int = 0, stop: int = 10**9, template: str = "{}!") -> Done:
    """Extract; raises KeyboardInterrupt once `stop` embeddings are encoded."""
    plan, backbone = plan_of(data, request, template=template)
    return carry(plan, backbone, workers=workers, stop=stop)


def carry(
    plan: Plan, backbone: Backbone, *, workers: int = 0, stop: int = 10**9, halt: Callable[[], None] = interrupt
) -> Done:
    """Carry the plan out; calls `halt` once `stop` embeddings are encoded."""
    encoded = 0

    def progress(embeddings: int) -> None:
        nonlocal encoded
        encoded += embeddings
        if encoded >= stop:
            halt()

    machine = Machine(device=torch.device("cpu"), batch_size=16, workers=workers)
    if not plan.complete:
        carry_out(plan, backbone, machine, provenance={"command": "featcache extract ..."}, progress=progress)
    return Done(plan, backbone, encoded)


def content(done: Done) -> str:
    with Store(done.plan.store) as store:
        assert verify(store) == []
        return store.content


def parts_of(plan: Plan) -> list[Path]:
    return sorted(parts_folder(plan.spec.key).glob("*"))


@pytest.fixture(scope="module")
def finished(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Done]]:
    """A cache folder with the store of `FULL` made in one go; tests copy it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("finished") / "home"
        patch.setenv("FEATCACHE_HOME", str(folder))
        yield folder, extract(pictures)


@pytest.fixture
def copied(finished: tuple[Path, Done], home: Path) -> Path:
    """That cache folder once more, to be changed."""
    shutil.copytree(finished[0], home)
    return home


@pytest.fixture
def own(pictures: Path, tmp_path: Path) -> Path:
    """The pictures once more, to be changed; times are kept."""
    return Path(shutil.copytree(pictures, tmp_path / pictures.name))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_VIEWS", 20)


# --- the plan, and the second call


def test_the_plan_counts_what_is_to_do(home: Path, pictures: Path) -> None:
    plan, _ = plan_of(pictures)
    train = plan.manifest.splits["train"].label
    drawn = {
        row for k in (1, 4) for seed in (1, 2) for row in draw(train, None, shots=k, shot_seed=seed).train.tolist()
    }
    assert set(plan.rows["train"].tolist()) == drawn
    assert {split: len(rows) for split, rows in plan.rows.items()} == {"train": len(drawn), "val": 12, "test": 15}
    assert plan.num_views == {"train": 3, "val": 1, "test": 1}
    assert plan.num_images == len(drawn) + 27
    assert plan.num_missing == plan.num_embeddings == 3 * len(drawn) + 27
    assert plan.num_bytes == plan.num_missing * plan.identity.dim * 4  # random weights: float32
    assert plan.draws == ((1, 1), (1, 2), (4, 1), (4, 2))
    assert not any((plan.complete, plan.stored, plan.texts.kept, plan.parts, plan.changed))
    assert not list(home.rglob("*.h5"))


def test_all_train_plans_every_image(home: Path, pictures: Path) -> None:
    plan, _ = plan_of(pictures, Request(shots=(1,), shot_seeds=(1,), num_views=0, all_train=True))
    assert {split: len(rows) for split, rows in plan.rows.items()} == {"train": 63, "val": 12, "test": 15}


def test_a_second_call_finds_all_there_and_builds_no_model(copied: Path, pictures: Path) -> None:
    done = extract(pictures)
    assert done.plan.complete
    assert done.encoded == 0
    assert "model" not in vars(done.backbone)
    assert done.plan.num_missing == 0


def test_a_second_call_imports_neither_torch_nor_open_clip(copied: Path, pictures: Path) -> None:
    code = (
        "import sys; from featcache import cli\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'open_clip', 'torchvision'} & set(sys.modules)\n"
    )
    options = ["--dataset", f"folder:{pictures}", "--backbone", "tiny", "--weights", "random:0", "--shots", "1,4"]
    options += ["--seeds", "1,2", "--views", "2", "--template", "{}!"]
    done = subprocess.run(
        [sys.executable, "-c", code, "extract", *options], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout


# --- the same store by other ways


@pytest.mark.parametrize(
    "first",
    [
        Request(shots=(1,), shot_seeds=(1, 2), num_views=2),
        Request(shots=(1, 4), shot_seeds=(2,), num_views=2),
        Request(shots=(1, 4), shot_seeds=(1, 2), num_views=0),
        Request(shots=(1,), shot_seeds=(1,), num_views=1),
    ],
)
def test_an_extended_store_equals_one_made_at_once(
    finished: tuple[Path, Done], home: Path, pictures: Path, first: Request
) -> None:
    begun = extract(pictures, first)
    extended = extract(pictures)
    assert extended.plan.store == begun.plan.store
    assert begun.encoded + extended.encoded == finished[1].encoded
    assert content(extended) == content(finished[1])
    assert extract(pictures, first).encoded == 0


def test_draws_add_up(finished: tuple[Path, Done], home: Path, pictures: Path) -> None:
    extract(pictures, Request(shots=(1,), shot_seeds=(1,), num_views=2))
    with Store(extract(pictures, Request(shots=(4,), shot_seeds=(2,), num_views=2)).plan.store) as store:
        assert store.provenance["draws"] == [[1, 1], [4, 2]]
        assert [draw.shot_seed for draw in draws_of(store, None, None)] == [2]


def test_worker_processes_change_nothing(finished: tuple[Path, Done], home: Path, pictures: Path) -> None:
    request = Request(shots=(1, 4), shot_seeds=(1, 2), num_views=2, all_train=True)
    digests = []
    for workers in (0, 2):
        shutil.rmtree(home / "stores", ignore_errors=True)
        done = extract(pictures, request, workers=workers)
        assert done.plan.num_images >= 64  # fewer are decoded without workers
        digests.append(content(done))
    assert digests[0] == digests[1]


def test_shards_change_nothing(finished: tuple[Path, Done], home: Path, pictures: Path, small_shards: None) -> None:
    assert content(extract(pictures)) == content(finished[1])


def test_an_interrupted_extraction_goes_on(
    finished: tuple[Path, Done], home: Path, pictures: Path, small_shards: None
) -> None:
    with pytest.raises(KeyboardInterrupt):
        extract(pictures, stop=60)
    resumed = extract(pictures)
    assert len(resumed.plan.parts) >= 2
    assert not resumed.plan.stored
    assert 0 < resumed.encoded <= finished[1].encoded - 40
    assert content(resumed) == content(finished[1])
    assert parts_of(resumed.plan) == []


def test_an_extraction_killed_in_the_middle_goes_on(finished: tuple[Path, Done], home: Path, pictures: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from tests import test_extraction as t\n"
        "t.shards.SHARD_VIEWS = 20\n"
        "plan, backbone = t.plan_of(Path(sys.argv[1]))\n"
        "t.carry(plan, backbone, stop=60, halt=lambda: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(pictures)], cwd=ROOT, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = extract(pictures)
    assert len(resumed.plan.parts) >= 2
    assert resumed.encoded < finished[1].encoded
    assert content(resumed) == content(finished[1])
    assert parts_of(resumed.plan) == []


def test_a_crash_between_rename_and_clean_up_is_healed(
    finished: tuple[Path, Done], home: Path, pictures: Path, small_shards: None
) -> None:
    with pytest.raises(KeyboardInterrupt):
        extract(pictures, stop=60)
    plan, _ = plan_of(pictures)
    kept = {part.path: part.path.read_bytes() for part in plan.parts}
    extract(pictures)
    for path, data in kept.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    again = extract(pictures)
    assert again.plan.complete
    assert len(again.plan.spent) == len(kept)


def test_parts_of_a_larger_request_wait_for_it(
    finished: tuple[Path, Done], home: Path, pictures: Path, small_shards: None
) -> None:
    with pytest.raises(KeyboardInterrupt):
        extract(pictures, stop=60)
    waiting = parts_of(plan_of(pictures)[0])
    smaller = extract(pictures, Request(shots=(1,), shot_seeds=(1,), num_views=0))
    with Store(smaller.plan.store) as store:
        assert store.num_views("train") == 1
    assert parts_of(smaller.plan) == waiting
    assert extract(pictures, Request(shots=(1,), shot_seeds=(1,), num_views=0)).plan.complete
    larger = extract(pictures)
    assert larger.encoded + smaller.encoded < finished[1].encoded
    assert content(larger) == content(finished[1])
    assert parts_of(larger.plan) == []


def test_a_damaged_part_is_made_anew(
    finished: tuple[Path, Done], home: Path, pictures: Path, small_shards: None
) -> None:
    with pytest.raises(KeyboardInterrupt):
        extract(pictures, stop=60)
    plan, _ = plan_of(pictures)
    part = plan.parts[0].path
    part.write_bytes(part.read_bytes()[:-200])
    (part.parent / "foreign.part").write_text("not a part")
    assert len(list(read_parts(plan.spec.key))) == len(plan.parts) - 1
    assert content(extract(pictures)) == content(finished[1])


def test_what_another_process_stored_meanwhile_is_kept(finished: tuple[Path, Done], home: Path, pictures: Path) -> None:
    slow, backbone = plan_of(pictures, Request(shots=(1,), shot_seeds=(1,), num_views=1), template="{}!")
    extract(pictures)
    assert content(carry(slow, backbone)) == content(finished[1])


# --- pixels and embeddings


def test_stored_rows_equal_a_bare_forward(finished: tuple[Path, Done], pictures: Path) -> None:
    import open_clip
    from torchvision.transforms import v2

    _, done = finished
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.create_model("tiny", pretrained=None).eval()
    identity = done.plan.identity
    transform = v2.Compose(
        [
            v2.Resize((identity.size, identity.size), interpolation=v2.InterpolationMode.BICUBIC),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(identity.mean, identity.std),
        ]
    )
    with Store(done.plan.store) as store:
        for split in store.splits:
            paths, rows = store.paths(split), store.rows(split)
            images = [transform(Image.open(pictures / paths[row]).convert("RGB")) for row in rows]
            with torch.inference_mode():
                bare = model.encode_image(torch.stack(images)).numpy()
            stored = store.array(split, "image", slice(None))[:, 0]
            away = np.linalg.norm(bare - bare.mean(axis=0), axis=1)
            distance = np.linalg.norm(stored[:, None] - bare, axis=2)
            assert (np.diag(distance) < 1e-2 * away).all()
            assert (distance.argmin(axis=1) == np.arange(len(rows))).all()
        names = open_clip.get_tokenizer("tiny")([f"{name}!" for name in store.classes])
        with torch.inference_mode():
            text = model.encode_text(names).numpy()
        np.testing.assert_allclose(store.text("default").embedding, text, rtol=1e-4, atol=1e-5)
        assert store.logit_scale == pytest.approx(model.logit_scale.exp().item())


def test_views_differ_and_training_takes_the_augmented_ones(finished: tuple[Path, Done]) -> None:
    with Store(finished[1].plan.store) as store:
        crop = store.array("train", "crop", slice(None))
        assert len(np.unique(crop[:, 1:].reshape(-1, 5), axis=0)) > len(crop)
        chosen = draws_of(store, 4, (1,))[0]
        task = load_task(store, chosen, Frozen(text=torch.zeros(3, 0), logit_scale=1.0))
        assert task.image.shape[:2] == (11, 2)  # two classes with 4 images, one with 3
        assert chosen.short_classes == ((2, 3),)


def test_a_new_template_encodes_texts_alone(copied: Path, pictures: Path, finished: tuple[Path, Done]) -> None:
    done = extract(pictures, template="a {}.")
    assert done.encoded == 0
    assert not done.plan.complete
    with Store(done.plan.store) as store, Store(finished[1].plan.store) as before:
        assert store.text("default").templates == ("a {}.",)
        assert not np.array_equal(store.text("default").embedding, before.text("default").embedding)
        assert store.key == before.key


def test_a_prompt_beyond_the_context_is_refused(copied: Path, pictures: Path) -> None:
    with pytest.raises(DataError, match="3 of 3 prompts are longer than the 32 tokens that tiny reads"):
        extract(pictures, template="{}" + " word" * 40)
    with pytest.raises(DataError, match="1 of 3 prompts"):  # start, name, 29 words and end: one too many for "bee fly"
        extract(pictures, template="{}" + " word" * 29)


# --- images that change or do not decode


def test_a_changed_image_is_encoded_anew(copied: Path, own: Path, home: Path) -> None:
    row = int(plan_of(own)[0].rows["train"][0])
    changed = own / plan_of(own)[0].manifest.splits["train"].path[row]
    assert extract(own).plan.complete
    before = changed.stat()
    image = Image.open(changed).convert("RGB")
    Image.eval(image, lambda value: 255 - value).save(changed)
    assert changed.stat().st_size == before.st_size  # only the time and the bytes tell
    os.utime(changed, ns=(10**9, before.st_mtime_ns + 10**14))
    done = extract(own)
    assert done.plan.changed == (changed.relative_to(own).as_posix(),)
    assert done.encoded == 3
    anew = content(done)
    shutil.rmtree(home / "stores")
    assert content(extract(own)) == anew


def test_a_changed_size_is_noticed_whatever_the_time(copied: Path, own: Path) -> None:
    changed = next((own / "test").rglob("*.bmp"))
    before = changed.stat()
    Image.new("RGB", (9, 9)).save(changed)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert extract(own).plan.changed == (changed.relative_to(own).as_posix(),)


def test_a_touched_image_is_not_encoded_anew(copied: Path, own: Path) -> None:
    for file in own.rglob("*.bmp"):
        os.utime(file)
    assert extract(own).plan.complete


def test_an_image_that_changed_after_its_part_was_written_is_encoded_anew(
    home: Path, own: Path, small_shards: None
) -> None:
    with pytest.raises(KeyboardInterrupt):
        extract(own, stop=60)
    plan, _ = plan_of(own)
    row = int(plan.parts[0].row[0])
    path = plan.manifest.splits[plan.parts[0].split].path[row]
    put_picture(own / path, seed="another")
    resumed = extract(own)
    assert resumed.plan.changed == (path,)
    assert parts_of(resumed.plan) == []
    shutil.rmtree(home / "stores")
    assert content(extract(own)) == content(resumed)


def test_an_image_that_does_not_decode_stops_the_extraction(home: Path, own: Path, small_shards: None) -> None:
    bad = sorted((own / "test").rglob("*.bmp"))[-1]
    bad.write_bytes(bad.read_bytes()[:100])
    with pytest.raises(DataError, match=rf"{bad.relative_to(own)}.*does not decode.*--on-bad-image skip"):
        extract(own)
    plan, _ = plan_of(own)
    assert not plan.stored
    assert plan.parts  # what was encoded before is not lost
    assert not [path for path in home.rglob("*") if ".tmp" in path.name]


def test_skipped_images_are_stored_as_missing_and_taken_up_when_mended(home: Path, own: Path) -> None:
    mended = extract(own)
    shutil.rmtree(home / "stores")
    bad = sorted((own / "test").rglob("*.bmp"))[-1]
    good, name = bad.read_bytes(), bad.relative_to(own).as_posix()
    bad.write_bytes(good[:100])
    skip = Request(shots=(1, 4), shot_seeds=(1, 2), num_views=2, skip_unreadable=True)
    done = extract(own, skip)
    with Store(done.plan.store) as store:
        assert [store.paths("test")[row] for row in store.missing("test")] == [name]
        assert store.num_rows("test") == 14
        assert verify(store) == []
    again = extract(own, skip)
    assert again.plan.complete
    assert again.plan.num_embeddings == mended.plan.num_embeddings - 1
    with pytest.raises(DataError, match="does not decode"):
        extract(own)
    bad.write_bytes(good)
    os.utime(bad, ns=(0, done.plan.store.stat().st_mtime_ns + 10**9))
    assert content(extract(own, skip)) == content(mended)


def test_a_split_without_one_readable_image(home: Path, own: Path) -> None:
    for file in (own / "val").rglob("*.bmp"):
        file.write_bytes(b"BM")
    skip = Request(shots=(1,), shot_seeds=(1,), num_views=0, skip_unreadable=True)
    with Store(extract(own, skip).plan.store) as store:
        assert store.num_rows("val") == 0
        assert len(store.missing("val")) == 12
    assert extract(own, skip).plan.complete


def test_an_image_that_vanished_is_said(copied: Path, own: Path) -> None:
    manifest = datasets.load(f"folder:{own}", data=None)
    gone = own / manifest.splits["test"].path[0]
    gone.unlink()
    with pytest.raises(DataError, match="listed in the data set but not found"):
        make_plan(manifest, Backbone("tiny", "random:0").identity, FULL)


# --- requests and names


def test_unsound_requests_are_refused(home: Path, pictures: Path) -> None:
    for options, message in (({"num_views": -1}, "--views"), ({"dtype": "int8"}, "--dtype int8")):
        with pytest.raises(ConfigError, match=message):
            Request(**options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="use one of coop, coop-2021, clip"):
        plan_of(pictures, Request(style="squash"))


def test_another_meaning_under_a_name_is_refused(home: Path, pictures: Path) -> None:
    request = Request(shots=(1,), shot_seeds=(1,), num_views=0, name="mine")
    store = extract(pictures, request).plan.store
    assert store.stem == "mine"
    before = store.read_bytes()
    with pytest.raises(StoreError, match="exists and means something else"):
        plan_of(pictures, Request(shots=(1,), shot_seeds=(1,), num_views=0, name="mine", style="clip"))
    assert store.read_bytes() == before


def test_a_store_is_found_by_its_key_under_whatever_name(copied: Path, pictures: Path) -> None:
    store = extract(pictures).plan.store
    moved = store.rename(store.with_name("renamed.h5"))
    assert extract(pictures).plan.store == moved
    assert extract(pictures).plan.complete


def test_another_folder_with_files_of_the_same_names_is_another_data_set(home: Path, tmp_path: Path) -> None:
    """Equal names, equal sizes, older than the store: only their bytes tell the two folders apart."""
    folders = tmp_path / "a" / "images", tmp_path / "b" / "images"
    for seed, folder in enumerate(folders):
        for name in ("ant", "bee"):
            for number in range(6):
                pixels = np.random.default_rng([seed, number]).integers(0, 256, (16, 16, 3), dtype=np.uint8)
                file = folder / name / f"{number}.bmp"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
                os.utime(file, (1, 1))
    request = replace(FULL, shots=(1,), num_views=0)
    first = extract(folders[0], request)
    with pytest.raises(StoreError, match="in another folder, and 3 of 3 train images differ"):
        extract(folders[1], request)
    other = extract(folders[1], replace(request, name="other"))
    assert content(first) != content(other)
    assert extract(folders[1], request).plan.store.stem == "other"
    assert extract(folders[0], request).encoded == 0


def test_a_folder_that_was_moved_keeps_its_store(copied: Path, finished: tuple[Path, Done], own: Path) -> None:
    first, again = finished[1], extract(own)
    assert (again.encoded, content(again)) == (0, content(first))


def test_a_text_set_that_came_after_the_plan_was_made_stays(home: Path, pictures: Path) -> None:
    extract(pictures)
    early = plan_of(pictures, replace(FULL, prompts=("paper-7",)), template="{}!")
    extract(pictures, replace(FULL, prompts=("openai-80",)))
    carry(*early)
    with Store(early[0].store) as store:
        assert store.text_sets == ("default", "openai-80", "paper-7")
