"""Scenes of coloured shapes: what is in one, and how it is varied at random.

A `Subject` is what a caption or a class name speaks of; a `Scene` adds everything else, every number that the picture
needs.
"""

from __future__ import annotations

from dataclasses import dataclass

from featcache.bundled.drawing import OUTLINES, Stream

HEIGHT, WIDTH = 72, 80

Colour = tuple[float, float, float]

COLOURS: dict[str, Colour] = {
    "red": (210.0, 35.0, 40.0),
    "orange": (240.0, 140.0, 30.0),
    "yellow": (240.0, 220.0, 50.0),
    "green": (45.0, 150.0, 60.0),
    "cyan": (60.0, 200.0, 210.0),
    "blue": (40.0, 75.0, 200.0),
    "purple": (125.0, 50.0, 160.0),
    "pink": (245.0, 150.0, 190.0),
    "brown": (120.0, 75.0, 40.0),
    "white": (240.0, 240.0, 240.0),
    "black": (25.0, 25.0, 25.0),
    "gray": (128.0, 128.0, 128.0),
}
ARRANGEMENTS = ("single", "pair", "row", "column", "grid", "wreath", "inside")
BACKDROPS = ("plain", "fade", "cloudy", "halves", "lined")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a picture shows, in words' terms."""

    shape: str
    fill: str = "plain"
    arrangement: str = "single"
    outer: str = ""
    """the shape around it, where the arrangement is `inside`"""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One shape on the canvas, lengths in pixels."""

    shape: str
    fill: str
    x: float
    y: float
    radius: float
    turn: tuple[float, float]
    stretch: float
    grain: tuple[float, float]
    """cosine and sine of the fill's own angle"""
    period: float
    first: Colour
    second: Colour


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that decides the pixels of one picture."""

    subject: Subject
    look: str
    colour: str
    second: str
    backdrop: str
    ground: str
    """the backdrop's colour name"""
    tints: tuple[Colour, Colour]
    items: tuple[Item, ...]
    """painted in this order"""
    blur: int
    contrast: float
    noise: float
    """width of the uniform noise, in grey levels"""
    lost: float
    """share of pixels replaced by black or white"""
    key: int


# -- varying ---------------------------------------------------------------------------------------------------------


def compose(subject: Subject, stream: Stream, *, look: str = "natural") -> Scene:
    """A scene of `subject` with every other choice drawn from `stream`."""
    ground, colour, second = _colours(subject, stream)
    clutter = [_distractor(stream, avoid=ground) for _ in range(stream.pick((0, 0, 1, 1, 2, 3)))]
    behind = len(clutter) - (1 if clutter and stream.unit() < 0.4 else 0)
    main = _arranged(subject, stream, first=_tint(colour, stream), second=_tint(second, stream))
    noisy = look == "noise"
    tint = _tint(ground, stream)
    other = _tint(stream.pick(sorted(COLOURS)), stream)
    mixed = stream.between(0.15, 0.45)
    return Scene(
        subject=subject,
        look=look,
        colour=colour,
        second=second,
        backdrop=stream.pick(BACKDROPS),
        ground=ground,
        tints=(tint, _blend(tint, other, mixed)),
        items=(*clutter[:behind], *main, *clutter[behind:]),
        blur=stream.pick((0, 1, 1, 2)) if noisy else stream.pick((0, 0, 1, 1, 2, 3)),
        contrast=stream.between(0.5, 0.9) if noisy else stream.between(0.55, 1.0),
        noise=stream.between(60.0, 140.0) if noisy else stream.between(0.0, 1.0) * stream.between(10.0, 90.0),
        lost=stream.between(0.01, 0.05) if noisy else 0.0,
        key=stream.word(),
    )


def _colours(subject: Subject, stream: Stream) -> tuple[str, str, str]:
    names = sorted(COLOURS)
    ground = names.pop(stream.below(len(names)))
    colour = names.pop(stream.below(len(names)))
    # A hollow shape's inside is the backdrop; any other second colour must be seen.
    return ground, colour, ground if subject.fill == "hollow" else names.pop(stream.below(len(names)))


def _tint(name: str, stream: Stream) -> Colour:
    red, green, blue = COLOURS[name]
    shift = stream.between(-25.0, 25.0)
    return (
        red + shift + stream.between(-15.0, 15.0),
        green + shift + stream.between(-15.0, 15.0),
        blue + shift + stream.between(-15.0, 15.0),
    )


def _blend(a: Colour, b: Colour, share: float) -> Colour:
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share)


def _distractor(stream: Stream, *, avoid: str) -> Item:
    """A small plain shape near the border."""
    edge, along = stream.below(4), stream.unit()
    x, y = ((along, 0.06), (along, 0.94), (0.06, along), (0.94, along))[edge]
    first = _tint(stream.pick([name for name in sorted(COLOURS) if name != avoid]), stream)
    return Item(
        shape=stream.pick(sorted(OUTLINES)),
        fill="plain",
        x=x * WIDTH,
        y=y * HEIGHT,
        radius=stream.between(5.0, 10.0),
        turn=stream.turn(),
        stretch=1.0,
        grain=(1.0, 0.0),
        period=1.0,
        first=first,
        second=first,
    )


def _arranged(subject: Subject, stream: Stream, *, first: Colour, second: Colour) -> list[Item]:
    size = stream.between(20.0, 33.0)
    cos, sin = stream.tilt(0.12)
    x = WIDTH / 2 + stream.between(-1.0, 1.0) * (38.0 - size)
    y = HEIGHT / 2 + stream.between(-1.0, 1.0) * (35.0 - size)
    grain, period, stretch = stream.turn(), stream.between(0.42, 0.62), stream.between(0.85, 1.15)
    items = []
    if subject.arrangement == "inside":
        outer = Item(
            shape=subject.outer,
            fill="plain",
            x=x,
            y=y,
            radius=size * 1.08,
            turn=stream.tilt(0.15),
            stretch=1.0,
            grain=grain,
            period=period,
            first=second,
            second=first,
        )
        items.append(outer)
    places, share = _PLACES[subject.arrangement]
    for u, v in places:
        item = Item(
            shape=subject.shape,
            fill=subject.fill,
            x=x + (u * cos - v * sin) * size + stream.between(-1.0, 1.0),
            y=y + (u * sin + v * cos) * size + stream.between(-1.0, 1.0),
            radius=size * share * stream.between(0.92, 1.08),
            turn=stream.tilt(0.22),
            stretch=stretch,
            grain=grain,
            period=period if subject.arrangement == "single" else period * 1.4,
            first=first,
            second=second,
        )
        items.append(item)
    return items


_PLACES: dict[str, tuple[tuple[tuple[float, float], ...], float]] = {
    "single": (((0.0, 0.0),), 1.0),
    "inside": (((0.0, 0.0),), 0.48),
    "pair": (((-0.58, 0.0), (0.58, 0.0)), 0.55),
    "row": (((-0.84, 0.0), (0.0, 0.0), (0.84, 0.0)), 0.42),
    "column": (((0.0, -0.8), (0.0, 0.0), (0.0, 0.8)), 0.4),
    "grid": (((-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)), 0.46),
    "wreath": (
        ((0.0, -0.8), (0.69, -0.4), (0.69, 0.4), (0.0, 0.8), (-0.69, 0.4), (-0.69, -0.4)),
        0.34,
    ),
}
