"""Prompt sets: what they say of which class, and that a store gets new ones without encoding anything else again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featcache import prompts
from featcache.backbones import Backbone
from featcache.errors import ConfigError, DataError, UnknownNameError
from featcache.loading import load_frozen
from featcache.open_clip_lists import imagenet_templates
from featcache.store import Store
from featcache.store.places import resolve
from tests import synthetic
from tests.commandline import Run

CLASSES = ("ant", "bee fly", "few")
IDS = ("n1", "n2", "n3")
CPU = torch.device("cpu")


def made(name: str) -> prompts.PromptSet:
    return prompts.prompt_set(name, CLASSES, IDS, template="a {}.")


def put(file: Path, text: str) -> str:
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_the_default_is_the_single_template() -> None:
    assert made("default").sentences == ("a ant.", "a bee fly.", "a few.")


def test_shipped_sets_are_the_papers_and_openais() -> None:
    seven = made("paper-7")
    # CLIP-Adapter, section 4.4: the seven hard prompts of the ensemble.
    assert seven.templates == (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    )
    assert seven.sentences[7:9] == ("itap of a bee fly.", "a bad photo of the bee fly.")
    assert seven.label[6:8] == (0, 1)
    assert len(made("openai-80").sentences) == 240


def test_a_file_of_templates(tmp_path: Path) -> None:
    text = made(put(tmp_path / "mine.txt", "\ufeff# two\na {}\n\n  the {}!  \n"))
    assert (text.name, text.templates) == ("mine", ("a {}", "the {}!"))
    assert text.sentences == ("a ant", "the ant!", "a bee fly", "the bee fly!", "a few", "the few!")


def test_descriptions_find_classes_by_name_and_by_id(tmp_path: Path) -> None:
    file = put(tmp_path / "said.json", json.dumps({"Bee_fly": ["hums", "flies"], "n1": ["crawls"], "few": ["rare"]}))
    text = made(file)
    assert list(zip(text.label, text.sentences, strict=True)) == [(0, "crawls"), (1, "hums"), (1, "flies"), (2, "rare")]
    assert text.templates == ()


def test_one_description_serves_all_classes_of_a_name(tmp_path: Path) -> None:
    file = put(tmp_path / "said.json", json.dumps({"crane": ["tall"], "owl": ["wise"]}))
    text = prompts.prompt_set(file, ("crane", "owl", "crane"), ("n1", "n2", "n3"), template="{}")
    assert list(zip(text.label, text.sentences, strict=True)) == [(0, "tall"), (1, "wise"), (2, "tall")]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", "{", "not JSON"),
        ("a.json", "[]", "must hold an object"),
        ("a.json", '{"ant": []}', "list of one sentence"),
        ("a.json", '{"ant": [1]}', "list of one sentence"),
        ("a.json", '{"ant": [" "]}', "none empty"),
        ("a.json", '{"ant": ["half a character: \\ud800"]}', "in Unicode"),
        ("a.json", '{"ant": {"x": "y"}}', "list of one sentence"),
        ("a.json", '{"ant": ["x"], "bee fly": ["y"], "few": ["z"], "ant": ["w"]}', "describes a class twice"),
        ("a.json", "[" * 100_000, "not JSON"),
        ("a.json", '{"ant": ["x"]}', "no sentence for 2 classes: 'bee fly', 'few'"),
        ("a.json", '{"ant": ["x"], "bee fly": ["y"], "few": ["z"], "wasp": ["w"]}', "classes that the data set lacks"),
        ("a.json", '{"ant": ["x"], "n1": ["y"], "bee fly": ["y"], "few": ["z"]}', "describes a class twice"),
        ("a.txt", "# nothing\n", "holds no template"),
        ("a.txt", "no place\n", "exactly one {}"),
        ("a.txt", "{} and {}\n", "exactly one {}"),
        ("a.txt", "{0}\n", "exactly one {}"),
        ("a.txt", "a {}\na {}\n", "a template twice"),
        ("default.txt", "a {}\n", "call it otherwise"),
        ("paper-7.json", "{}", "call it otherwise"),
        ("we/../ird name.txt", "a {}\n", "call it otherwise"),
    ],
)
def test_unusable_files_are_refused(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / "we").mkdir()
    with pytest.raises((DataError, ConfigError)) as caught:
        made(put(tmp_path / name, content))
    assert says in str(caught.value)


def test_an_absent_file_and_an_unknown_name() -> None:
    for name in ("nowhere.txt", "nowhere.json"):
        with pytest.raises(DataError, match=r"^there is no prompt file"):
            made(name)
    with pytest.raises(UnknownNameError, match="paper-7"):
        made("paper7")


def test_a_sentences_length_is_not_its_weight() -> None:
    """Radford et al. 2021: each sentence is normalised before the mean, and the mean once more."""
    text = prompts.TextSet(
        embedding=np.array([[9, 0], [0, 1], [3, 4]], dtype=np.float32),
        label=np.array([0, 0, 1], dtype=np.int32),
        template=np.array([0, 1, 0], dtype=np.int32),
        templates=("a {}", "the {}"),
        origin="any",
    )
    half = np.sqrt(0.5)
    np.testing.assert_allclose(prompts.classifier(text, 2), [[half, half], [0.6, 0.8]], atol=1e-6)
    with pytest.raises(DataError, match="1 classes have no sentence"):
        prompts.classifier(text, 3)


def test_the_mean_of_sets_weighs_them_alike() -> None:
    one = np.array([[1, 0], [0, 1]], dtype=np.float32)
    other = np.array([[0, 1], [0, 1]], dtype=np.float32)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(prompts.mean_classifier([one, other]), [[half, half], [0, 1]], atol=1e-6)


def test_a_set_added_to_a_store_encodes_only_its_own_texts(run: Run, pictures: Path, tmp_path: Path) -> None:
    extract = ("extract", "--dataset", f"folder:{pictures}", "--backbone", "tiny", "--views", "1", "--shots", "1")
    assert run(*extract).code == 0
    with Store(resolve(None)) as store:
        before = store.array("train", "digest", slice(None)), store.text("default").digest
    file = put(tmp_path / "said.json", json.dumps({name: [f"a sort of {name}", f"{name}, drawn"] for name in CLASSES}))
    said = run(*extract, "--prompts", f"paper-7,{file}")
    assert said.code == 0, said.err
    assert "0 images to decode, 0 embeddings to encode" in said.out
    assert "text set paper-7: 21 sentences to encode" in said.out
    assert "text set said: 6 sentences to encode" in said.out
    assert "text set default" not in said.out
    with Store(resolve(None)) as store:
        assert store.text_sets == ("default", "paper-7", "said")
        assert store.text("said").sentences[:2] == ("a sort of ant", "ant, drawn")
        np.testing.assert_array_equal(store.array("train", "digest", slice(None)), before[0])
        assert store.text("default").digest == before[1]
        expected = Backbone("tiny").encode_texts(["a sort of ant", "ant, drawn"], CPU)
        np.testing.assert_allclose(store.text("said").embedding[:2], expected, atol=1e-5)
    # The sets stay when the store is extended without naming them.
    assert "sentences to encode" not in run(*extract).out
    assert run("extract", *extract[1:], "--shots", "2").code == 0
    with Store(resolve(None)) as store:
        assert store.text_sets == ("default", "paper-7", "said")


def test_adding_needs_no_images(run: Run, pictures: Path, tmp_path: Path) -> None:
    extract = ("extract", "--dataset", f"folder:{pictures}", "--backbone", "tiny", "--views", "1", "--shots", "1")
    assert run(*extract, "--name", "one").code == 0
    assert run(*extract, "--name", "two", "--prompts", "openai-80", "--style", "clip").code == 0
    said = run("prompts", "add", "one", "openai-80")
    assert said.code == 0, said.err
    assert "240 sentences added to one" in said.out
    assert "there already" in run("prompts", "add", "one", "openai-80").out
    with Store(resolve("one")) as one, Store(resolve("two")) as two:
        np.testing.assert_allclose(one.text("openai-80").embedding, two.text("openai-80").embedding, atol=1e-6)
        assert one.text("openai-80").templates == imagenet_templates("openai-80")
        assert one.text("openai-80").origin == two.text("openai-80").origin
    listed = run("prompts", "ls", "one")
    assert "openai-80" in listed.out
    assert "can be added: paper-7" in listed.out
    assert run("cache", "verify", "one").code == 0


def test_only_new_sentences_are_encoded(
    run: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract = ("extract", "--dataset", f"folder:{pictures}", "--backbone", "tiny", "--views", "0", "--shots", "1")
    assert run(*extract).code == 0
    sent: list[str] = []
    through = Backbone.encode_texts

    def told(self: Backbone, sentences: Sequence[str], device: torch.device) -> Any:
        sent.extend(sentences)
        return through(self, sentences, device)

    monkeypatch.setattr(Backbone, "encode_texts", told)
    mine = tmp_path / "mine.txt"
    mine.write_text("a photo of a {}.\na drawing of a {}.\n")  # the first is the default's
    assert "6 sentences added" in (said := run("prompts", "add", resolve(None).stem, mine)).out
    assert "(3 encoded, the others were there)" in " ".join(said.out.split())
    with Store(resolve(None)) as store:
        before = store.text("mine")
    mine.write_text("a drawing of a {}.\na sketch of a {}.\na photo of a {}.\n")
    assert "9 sentences replaced in" in run("prompts", "add", resolve(None).stem, mine).out
    assert sorted(sent) == sorted(f"a {kind} of a {name}." for kind in ("drawing", "sketch") for name in store.classes)
    with Store(resolve(None)) as store:
        after = store.text("mine")
        assert {*before.sentences} < {*after.sentences}
        rows = dict(zip(after.sentences, after.embedding, strict=True))
        for sentence, row in zip(before.sentences, before.embedding, strict=True):
            assert np.array_equal(rows[sentence], row)
    assert run("cache", "verify", resolve(None).stem).code == 0


def test_what_came_while_texts_were_encoded_stays(run: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extract = ("extract", "--dataset", f"folder:{pictures}", "--backbone", "tiny", "--views", "0", "--seeds", "1")
    assert run(*extract, "--shots", "1").code == 0
    encode = Backbone.encode_texts

    def extending(self: Backbone, sentences: Sequence[str], device: torch.device) -> np.ndarray:
        monkeypatch.setattr(Backbone, "encode_texts", encode)
        assert run(*extract, "--shots", "2", "--prompts", "openai-80").code == 0
        return encode(self, sentences, device)

    monkeypatch.setattr(Backbone, "encode_texts", extending)
    assert run("prompts", "add", resolve(None).stem, "paper-7").code == 0
    with Store(resolve(None)) as store:
        assert store.text_sets == ("default", "openai-80", "paper-7")
        assert store.num_rows("train") > len(CLASSES)


def test_an_image_changed_before_a_set_was_added_is_still_noticed(run: Run, pictures: Path) -> None:
    extract = ("extract", "--dataset", f"folder:{pictures}", "--backbone", "tiny", "--views", "0", "--all-train")
    assert run(*extract).code == 0
    with Store(resolve(None)) as store:
        image = pictures / store.paths("train")[0]
    content = bytearray(image.read_bytes())
    content[-1] ^= 255  # a bitmap's last pixel: the size stays
    image.write_bytes(content)
    assert run("prompts", "add", resolve(None).stem, "paper-7").code == 0
    said = run(*extract)
    assert "has changed since it was encoded" in said.err
    assert "1 embeddings to encode" in said.out


def test_new_class_names_make_the_templates_sets_anew_and_drop_descriptions(
    run: Run, pictures: Path, tmp_path: Path
) -> None:
    extract = ("extract", "--dataset", f"folder:{pictures}", "--backbone", "tiny", "--views", "1", "--shots", "1")
    file = put(tmp_path / "said.json", json.dumps({name: [f"a sort of {name}"] for name in CLASSES}))
    assert run(*extract, "--prompts", f"paper-7,{file}").code == 0
    said = run(*extract, "--classnames", put(tmp_path / "names.txt", "wasp\nmidge\nmoth\n"))
    assert said.code == 0, said.err
    assert "the text set said was written for other class names and is dropped" in said.err
    with Store(resolve(None)) as store:
        assert store.classes == ("wasp", "midge", "moth")
        assert store.text_sets == ("default", "paper-7")
        assert store.text("paper-7").sentences[0] == "itap of a wasp."


def test_text_can_be_added_to_an_import_with_its_encoder_named(run: Run, tmp_path: Path) -> None:
    dim = Backbone("tiny").identity.dim
    for name, width in (("own", dim), ("narrow", dim - 1)):
        assert run("import", synthetic.save(tmp_path / f"{name}.npz", synthetic.arrays(dim=width)), "--name", name)
    assert "say which one with --backbone" in run("prompts", "add", "own", "paper-7").err
    assert run("prompts", "add", "own", "paper-7", "--backbone", "tiny").code == 0
    with Store(resolve("own")) as store:
        assert store.text_sets == ("default", "paper-7")
    assert "its text would point elsewhere" in run("prompts", "add", "narrow", "paper-7", "--backbone", "tiny").err
    assert "was imported and is not written over" in run("prompts", "add", "own", "default", "--backbone", "tiny").err


def test_fit_picks_sets_and_averages_them(run: Run, pictures: Path) -> None:
    extract = ("extract", "--dataset", f"folder:{pictures}", "--backbone", "tiny", "--views", "1", "--shots", "2")
    assert run(*extract, "--seeds", "1", "--prompts", "paper-7").code == 0
    quick = ("--alpha-grid", "0,0.5", "--epochs", "1", "--shots", "2", "--json")
    said = run("fit", "--prompts", "default,paper-7,default+paper-7", *quick)
    assert said.code == 0, said.err
    outcomes = json.loads(said.out)
    assert [outcome["text_set"] for outcome in outcomes] == ["default", "paper-7", "default+paper-7"]
    losses = {outcome["zero_shot"]["loss"] for outcome in outcomes}
    assert len(losses) == 3
    with Store(resolve(None)) as store:
        alone = [load_frozen(store, name, CPU).text for name in ("default", "paper-7")]
        mean = load_frozen(store, "default+paper-7", CPU).text
        total = alone[0] + alone[1]
        np.testing.assert_allclose(mean, total / total.norm(dim=1, keepdim=True), atol=1e-6)
    assert "unknown text set" in run("fit", "--prompts", "openai-80").err
