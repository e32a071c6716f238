"""Captions for training the `tiny` backbone, and the rule that keeps the data set's classes out of them.

Two things part the classes of `shapes` from training. `training_subject` never returns a subject that a class depicts,
nor one it is part of: the encoder has seen stars and it has seen stripes, but neither a picture nor a caption of a
striped star. And the classes are named in other words than the captions': "star of stripes" for what would be a striped
star, here and there with a word (garland, tower, twin) that no caption has.
"""

from __future__ import annotations

from featcache.bundled.drawing import Stream
from featcache.bundled.scenes import Scene, Subject

SHAPES: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc"),
    "square": ("square", "block"),
    "triangle": ("triangle",),
    "diamond": ("diamond", "rhombus"),
    "hexagon": ("hexagon",),
    "star": ("star",),
    "heart": ("heart",),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop"),
    "crescent": ("crescent", "moon"),
    "arrow": ("arrow",),
    "oval": ("oval", "ellipse"),
    "flower": ("flower", "blossom"),
    "house": ("house", "hut"),
}
"""Shape -> its nouns."""

BEFORE: dict[str, tuple[str, ...]] = {
    "plain": ("plain", "solid", ""),
    "stripes": ("striped", "banded"),
    "dots": ("dotted", "spotted"),
    "checks": ("checked", "checkered"),
    "net": ("netted", "latticed"),
    "halves": ("halved", "two-tone"),
    "speckles": ("speckled", "grainy"),
    "rings": ("ringed", "concentric"),
    "hollow": ("hollow", "outlined"),
}
"""Fill -> its adjectives."""

AFTER: dict[str, tuple[str, ...]] = {
    "plain": ("in one colour", "without a pattern"),
    "stripes": ("with stripes", "with bands across", "covered in stripes"),
    "dots": ("with dots", "with spots on", "covered in small dots"),
    "checks": ("with checks", "like a chessboard"),
    "net": ("with a net of lines", "with a grid of lines"),
    "halves": ("in two halves", "half one colour and half another"),
    "speckles": ("with speckles", "with a grainy texture"),
    "rings": ("made of rings", "with rings inside"),
    "hollow": ("with an empty middle", "drawn as an outline"),
}
"""Fill -> what may follow the noun."""

GROUPS: dict[str, tuple[str, ...]] = {
    "single": ("{}",),
    "pair": ("two {}s", "a pair of {}s", "two {}s side by side"),
    "row": ("three {}s in a row", "a row of {}s", "a line of three {}s"),
    "column": ("three {}s in a column", "a stack of {}s", "three {}s one above the other"),
    "grid": ("four {}s", "a grid of {}s", "four {}s in a grid"),
    "wreath": ("six {}s around", "a wreath of {}s", "six {}s in a circle"),
}
"""Arrangement -> phrases; {} is the item's noun with its adjectives."""

NESTED = ("{inner} inside {outer}", "{outer} with {inner} in it", "{outer} around {inner}")
OPENINGS = ("", "", "a drawing of ", "a picture of ", "an image of ", "there is ", "this shows ")

HELD_OUT: dict[str, Subject] = {
    "star of stripes": Subject(shape="star", fill="stripes"),
    "star full of spots": Subject(shape="star", fill="dots"),
    "star outline": Subject(shape="star", fill="hollow"),
    "heart of bands": Subject(shape="heart", fill="stripes"),
    "chessboard heart": Subject(shape="heart", fill="checks"),
    "half-and-half heart": Subject(shape="heart", fill="halves"),
    "disc full of spots": Subject(shape="circle", fill="dots"),
    "chessboard disc": Subject(shape="circle", fill="checks"),
    "disc of crossing lines": Subject(shape="circle", fill="net"),
    "flower outline": Subject(shape="flower", fill="hollow"),
    "polka-dot flower": Subject(shape="flower", fill="dots"),
    "hexagon of stripes": Subject(shape="hexagon", fill="stripes"),
    "sprinkled hexagon": Subject(shape="hexagon", fill="speckles"),
    "lattice cross": Subject(shape="cross", fill="net"),
    "half-and-half cross": Subject(shape="cross", fill="halves"),
    "moon outline": Subject(shape="crescent", fill="hollow"),
    "sprinkled moon": Subject(shape="crescent", fill="speckles"),
    "twin arrows": Subject(shape="arrow", arrangement="pair"),
    "string of triangles": Subject(shape="triangle", arrangement="row"),
    "tower of squares": Subject(shape="square", arrangement="column"),
    "quartet of ovals": Subject(shape="oval", arrangement="grid"),
    "garland of hearts": Subject(shape="heart", arrangement="wreath"),
    "star framed by a diamond": Subject(shape="star", arrangement="inside", outer="diamond"),
    "disc framed by a square": Subject(shape="circle", arrangement="inside", outer="square"),
}
"""What the classes of `shapes` depict, name -> subject; the order is the class index."""

# Four in ten are single shapes, as most classes are.
_ARRANGEMENTS = ("single",) * 4 + ("pair", "row", "column", "grid", "wreath", "inside")
_OUTERS = ("circle", "square", "diamond", "hexagon", "oval")


def class_subject(name: str, stream: Stream) -> Subject:
    """The subject of one image of class `name`; classes that name no fill take a random one."""
    subject = HELD_OUT[name]
    if subject.arrangement == "single":
        return subject
    fill = stream.pick(("plain", "plain", "stripes", "dots", "halves"))
    return Subject(shape=subject.shape, fill=fill, arrangement=subject.arrangement, outer=subject.outer)


def training_subject(stream: Stream) -> Subject:
    """A random subject that no class depicts."""
    while True:
        arrangement = stream.pick(
            ("single", "single", "single", "single", "pair", "row", "column", "grid", "wreath", "inside")
        )
        shape, fill = stream.pick(sorted(SHAPES)), stream.pick(sorted(BEFORE))
        outer = stream.pick(_OUTERS) if arrangement == "inside" else ""
        subject = Subject(shape=shape, fill=fill, arrangement=arrangement, outer=outer)
        if shape != outer and not is_held_out(subject):
            return subject


def is_held_out(subject: Subject) -> bool:
    """Whether a class of `shapes` is this subject or a part of it (no row of striped stars either)."""
    for held in HELD_OUT.values():
        if held.arrangement == "single" and (held.shape, held.fill) == (subject.shape, subject.fill):
            return True
        if held.arrangement != "single" and (held.shape, held.arrangement, held.outer) == (
            subject.shape,
            subject.arrangement,
            subject.outer,
        ):
            return True
    return False


def caption(scene: Scene, stream: Stream) -> str:
    """One of the many sentences that describe the scene's subject and, at times, its colours and background."""
    subject = scene.subject
    noun = stream.pick(SHAPES[subject.shape])
    style = stream.below(8)
    words = [scene.colour] if stream.unit() < 0.2 else []
    if style < 4:
        words.insert(stream.below(len(words) + 1), stream.pick(BEFORE[subject.fill]))
    phrase = " ".join([word for word in words if word] + [noun])
    if subject.arrangement == "inside":
        outer = stream.pick(SHAPES[subject.outer])
        outer = f"{scene.second} {outer}" if words and stream.unit() < 0.5 else outer
        text = stream.pick(NESTED).format(inner=_with_article(phrase), outer=_with_article(outer))
    else:
        text = stream.pick(GROUPS[subject.arrangement]).format(phrase)
    if subject.arrangement == "single":
        text = _with_article(text)
    if 4 <= style < 7:
        text = f"{text} {stream.pick(AFTER[subject.fill])}"
    if stream.unit() < 0.08:
        text = f"{text} on {_with_article(scene.ground)} background"
    return f"{stream.pick(OPENINGS)}{text}" + stream.pick(("", "."))


def _with_article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"
