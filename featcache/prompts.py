"""Prompts: sets of sentences about classes, their embeddings one row a sentence, and classifier weights from these."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.bounded import parse_json, read_text
from featcache.errors import ConfigError, DataError, UnknownNameError
from featcache.open_clip_lists import imagenet_templates

if TYPE_CHECKING:
    from featcache.store.spec import Tower

DEFAULT: Final = "default"
"""The set of a data set's single template, or of an import's text features."""
SHIPPED: Final = {
    "paper-7": ("simple-7", "the seven templates of CLIP-Adapter's ensemble (Table 7)"),
    "openai-80": ("openai-80", "OpenAI's eighty templates for ImageNet"),
}
"""Name -> open_clip's list and what it is. They fit any data set whose class names are things."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_NO_TEMPLATE = -1


@dataclass(frozen=True, kw_only=True)
class PromptSet:
    """T sentences about C classes, before anything is encoded."""

    name: str
    """What `--prompts` calls it."""
    label: tuple[int, ...]
    """(T,) the class each sentence describes."""
    sentences: tuple[str, ...]
    """(T,)"""
    template: tuple[int, ...]
    """(T,) which of `templates` made the sentence; -1 for a description."""
    templates: tuple[str, ...]
    """(P,) with `{}` where the class name goes."""

    def origin(self, tower: Tower) -> str:
        """Digest of the text tower and the sentences, class by class: equal origins, equal embeddings."""
        return _origin(tower, self.label, self.sentences)


@dataclass(frozen=True, kw_only=True)
class TextSet:
    """The T sentences of a set and their raw embeddings."""

    embedding: NDArray[np.float32]
    """(T, D) raw, one row a sentence."""
    label: NDArray[np.int32]
    """(T,) the class each sentence describes."""
    template: NDArray[np.int32]
    """(T,) which of `templates` made the sentence; -1 for a description."""
    templates: tuple[str, ...]
    """(P,) with `{}` where the class name goes."""
    origin: str
    """Digest of the text tower and the sentences it encoded, or of the file they were imported from."""
    sentences: tuple[str, ...] = ()
    """(T,), or none where an import does not say them."""

    @property
    def digest(self) -> str:
        """SHA-256 of everything in the set."""
        digest = hashlib.sha256("\0".join((self.origin, *self.templates, *self.sentences)).encode())
        for array in (self.embedding, self.label, self.template):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def _origin(tower: Tower, label: Sequence[int], sentences: Sequence[str]) -> str:
    content = [asdict(tower), list(label), list(sentences)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def single(template: str, classes: Sequence[str]) -> PromptSet:
    """The default set: one template, one sentence a class."""
    return from_templates(DEFAULT, (template,), classes)


def prompt_set(name: str, classes: Sequence[str], class_ids: Sequence[str], *, template: str) -> PromptSet:
    """The set that `--prompts` names: `default`, one of `SHIPPED`, or a file, whose set is called by its stem.

    A .txt file holds one template a line; a .json file holds {class: [sentence, ..]}, a class given by name or id.
    Raises UnknownNameError, ConfigError for an unusable template, DataError for an unusable file.
    """
    if name == DEFAULT:
        return single(template, classes)
    if name in SHIPPED:
        return from_templates(name, imagenet_templates(SHIPPED[name][0]), classes)
    file = Path(name).expanduser()
    if file.suffix not in (".txt", ".json"):
        raise UnknownNameError("prompt set", name, [DEFAULT, *SHIPPED, "FILE.txt (templates)", "FILE.json (sentences)"])
    if file.stem in (DEFAULT, *SHIPPED) or not _NAME.fullmatch(file.stem):
        raise ConfigError(
            f"the prompt file {file} would name its set {file.stem!r}; call it otherwise: letters, digits, dot, dash "
            f"and underscore, and none of {', '.join((DEFAULT, *SHIPPED))}"
        )
    if file.suffix == ".txt":
        return _from_file(file, classes)
    return _from_descriptions(file.stem, file, classes, class_ids)


def remade(name: str, text: TextSet, classes: Sequence[str]) -> PromptSet | None:
    """The sentences a stored set would have for these classes; None for descriptions and imports."""
    if not text.templates or (text.template == _NO_TEMPLATE).any() or not text.sentences:
        return None
    return from_templates(name, text.templates, classes)


def from_templates(name: str, templates: Sequence[str], classes: Sequence[str]) -> PromptSet:
    """Every class in every template, class by class. Raises ConfigError for a template without exactly one {}."""
    for template in templates:
        check_template(template)
    if len(set(templates)) < len(templates):
        raise ConfigError(f"the prompt set {name} has a template twice")
    made = [(label, index) for label in range(len(classes)) for index in range(len(templates))]
    return PromptSet(
        name=name,
        label=tuple(label for label, _ in made),
        sentences=tuple(templates[index].format(classes[label]) for label, index in made),
        template=tuple(index for _, index in made),
        templates=tuple(templates),
    )


def check_template(template: str) -> None:
    """Raises ConfigError for a template without exactly one {}."""
    if (template.count("{}"), template.count("{"), template.count("}")) != (1, 1, 1):
        raise ConfigError(f'template {template!r} must hold exactly one {{}}, as in "a photo of a {{}}."')


class Encoded(NamedTuple):
    """A set that has been encoded."""

    text: TextSet
    num_new: int
    """Sentences that had to go through the tower; the others were there, in another set or another class."""


def encode_set(
    prompts: PromptSet, held: Iterable[TextSet], tower: Tower, through: Callable[[Sequence[str]], NDArray[np.float32]]
) -> Encoded:
    """The text set of sentences; only those that none of `held` has from the same tower go `through` it.

    A sentence's embedding does not hang on its neighbours, so it is the same bit for bit whichever set it was made for.
    """
    found: dict[str, NDArray[np.float32]] = {}
    for text in held:
        if text.sentences and text.origin == _origin(tower, text.label.tolist(), text.sentences):
            found.update(zip(text.sentences, text.embedding, strict=True))
    new = [sentence for sentence in dict.fromkeys(prompts.sentences) if sentence not in found]
    found.update(zip(new, through(new) if new else (), strict=True))
    return Encoded(_text_set(prompts, np.stack([found[sentence] for sentence in prompts.sentences]), tower), len(new))


def _text_set(prompts: PromptSet, embedding: NDArray[np.float32], tower: Tower) -> TextSet:
    return TextSet(
        embedding=embedding,
        label=np.array(prompts.label, dtype=np.int32),
        sentences=prompts.sentences,
        template=np.array(prompts.template, dtype=np.int32),
        templates=prompts.templates,
        origin=prompts.origin(tower),
    )


def classifier(text: TextSet, num_classes: int) -> NDArray[np.float32]:
    """(C, D) unit rows: each sentence normalised, averaged over its class, normalised again.

    Radford et al. 2021, section 3.1.4 (prompt ensembling). Raises DataError for a class without a sentence.
    """
    unit = text.embedding / np.linalg.norm(text.embedding, axis=1, keepdims=True)
    total = np.zeros((num_classes, unit.shape[1]), dtype=np.float32)
    np.add.at(total, text.label, unit)
    norm = np.linalg.norm(total, axis=1, keepdims=True)
    if not (norm > 0).all():
        raise DataError(
            f"{int((norm == 0).sum())} classes have no sentence in the text set, class {int(norm.argmin())} first"
        )
    weights: NDArray[np.float32] = total / norm
    return weights


def mean_classifier(weights: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """(C, D) unit rows: the mean of several sets' classifiers, in which one sentence may weigh as eighty."""
    if len(weights) == 1:
        return weights[0]  # bit for bit: normalising a unit row once more would move its last digit
    total: NDArray[np.float32] = np.sum(weights, axis=0)
    unit: NDArray[np.float32] = total / np.linalg.norm(total, axis=1, keepdims=True)
    return unit


def _from_file(file: Path, classes: Sequence[str]) -> PromptSet:
    try:
        return from_templates(file.stem, _templates(file), classes)
    except ConfigError as error:
        raise ConfigError(f"the prompt file {file}: {error}") from error


def _templates(file: Path) -> tuple[str, ...]:
    lines = [line.strip() for line in _read(file).splitlines()]
    templates = tuple(line for line in lines if line and not line.startswith("#"))
    if not templates:
        raise DataError(f'the prompt file {file} holds no template; write one a line, as in "a photo of a {{}}."')
    return templates


def _from_descriptions(name: str, file: Path, classes: Sequence[str], class_ids: Sequence[str]) -> PromptSet:
    text = _read(file)
    try:
        content = parse_json(text, _Pairs)
    except ValueError as error:
        raise DataError(f"the prompt file {file} is not JSON: {error}") from error
    found = _by_class(content, file, classes, class_ids)
    lacking = [classes[label] for label in range(len(classes)) if label not in found]
    if lacking:
        raise DataError(f"the prompt file {file} has no sentence for {len(lacking)} classes: {_first(lacking)}")
    made = [(label, sentence) for label in range(len(classes)) for sentence in found[label]]
    return PromptSet(
        name=name,
        label=tuple(label for label, _ in made),
        sentences=tuple(sentence for _, sentence in made),
        template=(_NO_TEMPLATE,) * len(made),
        templates=(),
    )


def _by_class(
    content: Any, file: Path, classes: Sequence[str], class_ids: Sequence[str]
) -> Mapping[int, Sequence[str]]:
    """The sentences of each class index."""
    if not isinstance(content, _Pairs):
        raise DataError(f"the prompt file {file} must hold an object of class -> list of sentences")
    # Peers' files write names as their data sets do: case and underscores differ.
    # A name that several classes bear (ImageNet's "sunglasses") describes them all.
    index: dict[str, set[int]] = {}
    for names in (classes, class_ids):
        for label, name in enumerate(names):
            index.setdefault(_plain(name), set()).add(label)
    found: dict[int, Sequence[str]] = {}
    unknown = []
    for name, sentences in content:
        if not isinstance(sentences, list) or not sentences or not all(_is_sentence(item) for item in sentences):
            raise DataError(
                f"the prompt file {file}: {name!r} must have a list of one sentence or more, none empty, in Unicode"
            )
        labels = index.get(_plain(name), set())
        if not labels:
            unknown.append(name)
        if labels & found.keys():
            raise DataError(f"the prompt file {file} describes a class twice, again as {name!r}")
        found.update(dict.fromkeys(labels, sentences))
    if unknown:
        raise DataError(
            f"the prompt file {file} describes {len(unknown)} classes that the data set lacks: {_first(unknown)}; "
            f"it has {_first(classes)}"
        )
    return found


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with its keys as often as they stand there: a dict would keep the last of two."""


def _is_sentence(value: object) -> bool:
    # JSON can spell half a character, which is no Unicode text and fits no file.
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= char <= "\udfff" for char in value)


def _read(file: Path) -> str:
    try:
        return read_text(file)
    except FileNotFoundError:
        raise DataError(f"there is no prompt file {file}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read prompts from {file}: {error}") from error


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())


def _first(names: Iterable[str]) -> str:
    listed = [repr(name) for name in names]
    return ", ".join(listed[:3]) + (", .." if len(listed) > 3 else "")
