"""Planes of numbers for the renderer: hashes, outlines of shapes, fills, backgrounds, blur and noise.

Nothing here may give different pixels elsewhere. So randomness is an integer hash of a counter, not a library's
generator; floats are float64 (no promotion rule is consulted) and meet only + - * / sqrt, floor and comparisons, one
operation a numpy call, which IEEE 754 fixes to the last bit; there are no sums over axes, no matrix products and no
sines: every angle is a point on the unit circle, made by a square root or written out as a decimal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float64]
T = TypeVar("T")

_WORD = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_MIX_A = 0xBF58476D1CE4E5B9
_MIX_B = 0x94D049BB133111EB


# -- randomness ------------------------------------------------------------------------------------------------------


def mix(word: int) -> int:
    """The 64-bit hash of a 64-bit counter (SplitMix64's finaliser; Steele, Lea and Flood 2014)."""
    word &= _WORD
    word = ((word ^ (word >> 30)) * _MIX_A) & _WORD
    word = ((word ^ (word >> 27)) * _MIX_B) & _WORD
    return word ^ (word >> 31)


def key_of(text: str) -> int:
    """The 64-bit key of a string: FNV-1a over its UTF-8 bytes, mixed."""
    word = 0xCBF29CE484222325
    for byte in text.encode():
        word = ((word ^ byte) * 0x100000001B3) & _WORD
    return mix(word)


@dataclass
class Stream:
    """A sequence of random choices that is a function of its key alone."""

    key: int
    count: int = 0

    def word(self) -> int:
        """The next 64 random bits."""
        self.count += 1
        return mix(self.key + self.count * _GAMMA)

    def unit(self) -> float:
        """A float in [0, 1)."""
        return (self.word() >> 11) * 2.0**-53

    def between(self, low: float, high: float) -> float:
        """A float in [low, high)."""
        return low + (high - low) * self.unit()

    def below(self, stop: int) -> int:
        """An integer in 0 .. stop - 1."""
        return self.word() % stop

    def pick(self, choices: Sequence[T]) -> T:
        """One of the choices."""
        return choices[self.below(len(choices))]

    def turn(self) -> tuple[float, float]:
        """Cosine and sine of a uniform angle: a point of the disc, by rejection, pushed to the circle."""
        while True:
            x, y = self.between(-1.0, 1.0), self.between(-1.0, 1.0)
            square = x * x + y * y
            if 0.01 < square < 1.0:
                return x / math.sqrt(square), y / math.sqrt(square)

    def tilt(self, most: float) -> tuple[float, float]:
        """Cosine and sine of an angle whose half has a tangent in [-most, most)."""
        t = self.between(-most, most)
        return (1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t)


def random_plane(key: int, *, height: int, width: int) -> Plane:
    """Uniform values in [0, 1), one hash a pixel; (height, width)."""
    word = np.arange(1, height * width + 1, dtype=np.uint64) * np.uint64(_GAMMA) + np.uint64(mix(key))
    return _hashed(word).reshape(height, width)


def _hashed(word: npt.NDArray[np.uint64]) -> Plane:
    word = (word ^ (word >> np.uint64(30))) * np.uint64(_MIX_A)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(_MIX_B)
    word = word ^ (word >> np.uint64(31))
    return (word >> np.uint64(11)).astype(np.float64) * 2.0**-53


# -- shapes: below zero inside, in units of the shape's radius, near enough to a distance at the border ----------------

_TURNS: dict[int, tuple[tuple[float, float], ...]] = {
    3: ((0.0, 1.0), (0.8660254037844386, -0.5), (-0.8660254037844386, -0.5)),
    5: (
        (0.0, -1.0),
        (0.9510565162951535, -0.30901699437494745),
        (0.5877852522924731, 0.8090169943749475),
        (-0.5877852522924731, 0.8090169943749475),
        (-0.9510565162951535, -0.30901699437494745),
    ),
    6: (
        (0.0, 1.0),
        (0.8660254037844386, 0.5),
        (0.8660254037844386, -0.5),
        (0.0, -1.0),
        (-0.8660254037844386, -0.5),
        (-0.8660254037844386, 0.5),
    ),
}


def _disc(u: Plane, v: Plane, *, x: float = 0.0, y: float = 0.0, radius: float = 0.95) -> Plane:
    return np.sqrt((u - x) * (u - x) + (v - y) * (v - y)) - radius


def _box(u: Plane, v: Plane, *, x: float, y: float) -> Plane:
    return np.maximum(np.abs(u) - x, np.abs(v) - y)


def _planes(u: Plane, v: Plane, *, turns: int, reach: float) -> list[Plane]:
    return [u * x + v * y - reach for x, y in _TURNS[turns]]


def _triangle(u: Plane, v: Plane) -> Plane:
    a, b, c = _planes(u, v - 0.15, turns=3, reach=0.56)
    return np.maximum(np.maximum(a, b), c)


def _hexagon(u: Plane, v: Plane) -> Plane:
    return np.maximum(np.abs(v), np.abs(u) * _TURNS[6][1][0] + np.abs(v) * 0.5) - 0.85


def _star(u: Plane, v: Plane) -> Plane:
    # A pentagram is where at least four of five half-planes hold: the second largest distance is below zero.
    most = np.full_like(u, -9.0)
    second = most
    for plane in _planes(u, v, turns=5, reach=0.36):
        second = np.maximum(second, np.minimum(most, plane))
        most = np.maximum(most, plane)
    return second


def _heart(u: Plane, v: Plane) -> Plane:
    side = np.abs(u)
    lobe = _disc(side, v, x=0.44, y=-0.32, radius=0.5)
    point = np.maximum((side + v) * 0.7071067811865476 - 0.584, -0.32 - v)
    return np.minimum(lobe, np.maximum(point, side - 0.93))


def _flower(u: Plane, v: Plane) -> Plane:
    petals = _disc(u, v, radius=0.35)
    for x, y in _TURNS[5]:
        petals = np.minimum(petals, _disc(u, v, x=0.56 * x, y=0.56 * y, radius=0.36))
    return petals


def _crescent(u: Plane, v: Plane) -> Plane:
    return np.maximum(_disc(u, v), -_disc(u, v, x=0.5, y=-0.1, radius=0.75))


def _arrow(u: Plane, v: Plane) -> Plane:
    head = np.maximum((u + np.abs(v)) * 0.7071067811865476 - 0.66, -u)
    return np.minimum(head, _box(u + 0.4, v, x=0.55, y=0.3))


def _house(u: Plane, v: Plane) -> Plane:
    roof = np.maximum((np.abs(u) - v) * 0.7071067811865476 - 0.66, v + 0.05)
    return np.minimum(roof, _box(u, v - 0.4, x=0.62, y=0.48))


OUTLINES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "circle": _disc,
    "square": lambda u, v: _box(u, v, x=0.8, y=0.8),
    "triangle": _triangle,
    "diamond": lambda u, v: (np.abs(u) * 1.5 + np.abs(v) - 1.0) * 0.55,
    "hexagon": _hexagon,
    "star": _star,
    "heart": _heart,
    "cross": lambda u, v: np.minimum(_box(u, v, x=0.95, y=0.33), _box(u, v, x=0.33, y=0.95)),
    "ring": lambda u, v: np.abs(_disc(u, v, radius=0.66)) - 0.29,
    "crescent": _crescent,
    "arrow": _arrow,
    "oval": lambda u, v: (np.sqrt(u * u * 2.9 + v * v) - 1.0) * 0.62,
    "flower": _flower,
    "house": _house,
}
"""Name -> signed field of local coordinates (u right, v down), each shape about one unit in radius."""


# -- fills: signed distance in pixels to the border between first and second colour, above zero in the second ----------


@dataclass(frozen=True)
class Grain:
    """What a fill is drawn with: local coordinates turned by the fill's own angle, and the size of its parts."""

    u: Plane
    v: Plane
    outline: Plane
    period: float
    """local units from one stripe, dot or square to the next"""
    key: int


def _wave(axis: Plane, period: float) -> Plane:
    ramp = axis / period
    return np.abs(ramp - np.floor(ramp) - 0.5) - 0.25


def _checks(grain: Grain) -> Plane:
    across, down = _wave(grain.u, grain.period * 1.25), _wave(grain.v, grain.period * 1.25)
    return np.where(across * down < 0.0, -1.0, 1.0) * np.minimum(np.abs(across), np.abs(down)) * grain.period * 1.25


def _dots(grain: Grain) -> Plane:
    u, v = grain.u / grain.period, grain.v / grain.period
    u, v = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    return (0.31 - np.sqrt(u * u + v * v)) * grain.period


def _speckles(grain: Grain) -> Plane:
    cell = np.floor(grain.u * 9.0 + 64.0) * 131.0 + np.floor(grain.v * 9.0 + 64.0)
    word = cell.astype(np.int64).astype(np.uint64) * np.uint64(_GAMMA) + np.uint64(mix(grain.key))
    return np.where(_hashed(word) < 0.4, 0.1, -0.1)


def _net(grain: Grain) -> Plane:
    return (np.maximum(_wave(grain.u, grain.period), _wave(grain.v, grain.period)) - 0.12) * grain.period


FILLS: dict[str, Callable[[Grain], Plane]] = {
    "plain": lambda grain: np.full_like(grain.u, -1.0),
    "stripes": lambda grain: _wave(grain.u, grain.period) * grain.period,
    "dots": _dots,
    "checks": _checks,
    "net": _net,
    "halves": lambda grain: grain.u * 1.0,
    "speckles": _speckles,
    "rings": lambda grain: _wave(grain.outline, grain.period * 0.9) * grain.period * 0.9,
    "hollow": lambda grain: np.full_like(grain.u, -1.0),
}
"""Name -> signed field in local units; `hollow` is cut out of the outline instead (see the renderer)."""


# -- whole images ----------------------------------------------------------------------------------------------------


def cover(field: Plane) -> Plane:
    """How much of each pixel lies where the field (in pixels) is above zero, 0 to 1: a ramp of one pixel."""
    return np.minimum(np.maximum(field + 0.5, 0.0), 1.0)


def clouds(key: int, *, height: int, width: int, cells: int) -> Plane:
    """Smooth random blotches in [0, 1): a coarse grid of hashes, interpolated linearly; (height, width)."""
    coarse = random_plane(key, height=cells + 1, width=cells + 1)
    y = np.arange(height, dtype=np.float64) * (cells / height)
    x = np.arange(width, dtype=np.float64) * (cells / width)
    row, column = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    down, right = (y - np.floor(y))[:, None], (x - np.floor(x))[None, :]
    upper, lower = coarse[row], coarse[row + 1]
    upper = upper[:, column] + (upper[:, column + 1] - upper[:, column]) * right
    lower = lower[:, column] + (lower[:, column + 1] - lower[:, column]) * right
    return upper + (lower - upper) * down


def blurred(image: Plane, passes: int) -> Plane:
    """The image (3, H, W) after `passes` of the kernel 1/4 1/2 1/4 in both directions; edges are repeated."""
    for _ in range(passes):
        padded = np.concatenate((image[:, :1], image, image[:, -1:]), axis=1)
        image = (padded[:, :-2] + padded[:, 2:]) * 0.25 + image * 0.5
        padded = np.concatenate((image[:, :, :1], image, image[:, :, -1:]), axis=2)
        image = (padded[:, :, :-2] + padded[:, :, 2:]) * 0.25 + image * 0.5
    return image
