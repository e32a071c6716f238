"""The pixels of a scene. `render` has no randomness of its own: everything is in the scene, its key included."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from featcache.bundled import drawing
from featcache.bundled.drawing import FILLS, OUTLINES, Grain, Plane
from featcache.bundled.scenes import HEIGHT, WIDTH, Item, Scene

Image = npt.NDArray[np.uint8]


def render(scene: Scene) -> Image:
    """The scene's picture: (HEIGHT, WIDTH, 3) uint8, RGB."""
    if scene.look == "sketch":
        canvas = _paper(scene)
        for item in scene.items:
            _draw_lines(canvas, item)
    else:
        canvas = _backdrop(scene)
        for item in scene.items:
            _paint(canvas, item)
    canvas = drawing.blurred(canvas, scene.blur)
    if scene.look != "sketch":
        canvas = (canvas - 128.0) * scene.contrast + 128.0
    return _grainy(canvas, scene)


def _backdrop(scene: Scene) -> Plane:
    """The empty canvas (3, H, W): two tints and how much of the second each pixel takes."""
    across = np.arange(WIDTH, dtype=np.float64)[None, :] / WIDTH + np.zeros((HEIGHT, 1))
    down = np.arange(HEIGHT, dtype=np.float64)[:, None] / HEIGHT + np.zeros((1, WIDTH))
    share = _BACKDROPS[scene.backdrop](across, down, scene.key)
    first, second = scene.tints
    return np.stack([a + share * (b - a) for a, b in zip(first, second, strict=True)])


def _lined(across: Plane, down: Plane, _: int) -> Plane:
    ramp = (down + across * 0.5) * 9.0
    return drawing.cover((ramp - np.floor(ramp) - 0.5) * 4.0)


_BACKDROPS: dict[str, Callable[[Plane, Plane, int], Plane]] = {
    "plain": lambda across, _down, _key: np.zeros_like(across),
    "fade": lambda across, down, key: across if key & 1 else down,
    "cloudy": lambda _across, _down, key: drawing.clouds(key, height=HEIGHT, width=WIDTH, cells=7),
    "halves": lambda across, down, key: drawing.cover((across - down if key & 1 else down - 0.5) * 40.0),
    "lined": _lined,
}
"""Name -> the second tint's share, from coordinates in 0 .. 1 and the scene's key."""


def _paper(scene: Scene) -> Plane:
    shade = 236.0 + drawing.clouds(scene.key, height=HEIGHT, width=WIDTH, cells=5) * 16.0
    return np.stack([shade, shade, shade])


def _paint(canvas: Plane, item: Item) -> None:
    """Lay the item over the canvas, in place."""
    window, mask, mixed = _layers(item)
    part = canvas[window]
    for channel in range(3):
        colour = item.first[channel] + mixed * (item.second[channel] - item.first[channel])
        part[channel] += mask * (colour - part[channel])


def _draw_lines(canvas: Plane, item: Item) -> None:
    """Draw the item's outline, and its fill's as thinner lines, on paper, in place."""
    window, mask, mixed = _layers(item)
    part = canvas[window]
    ink = np.maximum(_edges(mask), _edges(mixed) * 0.7 * mask)
    inside = np.where(mask > 0.5, 1.0, 0.0)
    for channel in range(3):
        # What lies behind does not show through.
        blank = part[channel] + inside * (240.0 - part[channel])
        part[channel] = blank + ink * (40.0 - blank)


def _edges(share: Plane) -> Plane:
    """Where a cover changes from pixel to pixel, 0 to 1."""
    right = np.abs(share - np.concatenate((share[:, :1], share[:, :-1]), axis=1))
    down = np.abs(share - np.concatenate((share[:1], share[:-1]), axis=0))
    return np.minimum(np.maximum(right, down) * 1.5, 1.0)


def _layers(item: Item) -> tuple[tuple[slice, slice, slice], Plane, Plane]:
    """The item's window of the canvas, its cover there, and how much of that is its second colour."""
    reach = item.radius * 1.3 + 2.0
    left, right = max(0, int(item.x - reach)), min(WIDTH, int(item.x + reach) + 1)
    top, bottom = max(0, int(item.y - reach)), min(HEIGHT, int(item.y + reach) + 1)
    x = (np.arange(left, right, dtype=np.float64)[None, :] - item.x) / item.radius
    y = (np.arange(top, bottom, dtype=np.float64)[:, None] - item.y) / item.radius
    cos, sin = item.turn
    u, v = (x * cos + y * sin) / item.stretch, (y * cos - x * sin) * item.stretch
    outline = OUTLINES[item.shape](u, v)
    if item.fill == "hollow":
        outline = np.maximum(outline, -0.16 - outline)
    cos, sin = item.grain
    grain = Grain(
        u=u * cos + v * sin,
        v=v * cos - u * sin,
        outline=outline,
        period=item.period,
        key=int(item.x * 64.0) * 8192 + int(item.y * 64.0),
    )
    mixed = drawing.cover(FILLS[item.fill](grain) * item.radius)
    return (slice(0, 3), slice(top, bottom), slice(left, right)), drawing.cover(-outline * item.radius), mixed


def _grainy(canvas: Plane, scene: Scene) -> Image:
    for channel in range(3):
        canvas[channel] += (drawing.random_plane(scene.key + channel, height=HEIGHT, width=WIDTH) - 0.5) * scene.noise
    if scene.lost:
        fate = drawing.random_plane(scene.key + 3, height=HEIGHT, width=WIDTH)
        canvas = np.where(fate < scene.lost * 0.5, 0.0, np.where(fate > 1.0 - scene.lost * 0.5, 255.0, canvas))
    levels = np.floor(np.minimum(np.maximum(canvas, 0.0), 255.0) + 0.5)
    return np.ascontiguousarray(levels.astype(np.uint8).transpose(1, 2, 0))
