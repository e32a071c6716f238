"""Preprocessing styles, and the augmented views of one decoded image.

View 0 is the test transform, which the style names:

    coop        both sides squashed to `size`: CoOp until October 2021, and the paper's default
    coop-2021   short side to `size`, then the centre: CoOp since Dassl's commit 3bd9104 of 2021-10-09
    clip        the same steps, as OpenAI's CLIP has them and the paper's appendix uses

`coop-2021` and `clip` are two names of one computation: their pixels are equal, and a store records the name that was
asked for. Of the originals they differ in what is no step of a style here: OpenAI's converts to RGB after it has
resized, which changes palette images and those with transparency; all styles here convert first, as CoOp does.

Views 1, 2, .. are random resized crops of the original image with a horizontal flip, in every style. CoOp has them so
since the same commit; until then it cropped from the squashed image, which no style here repeats.

Given the same box, the pixels equal torchvision's on PIL images bit for bit (tests/test_views.py). Neither torch nor
torchvision is imported: the processes that decode need PIL and numpy alone. Mean and std are applied later, on the
device. With `pixels="torch"`, torch resizes, by the same filter on the same decoded image: sooner, and off by some
levels of 256 here and there, so it is part of the key and gated on the drift of embeddings (extraction/drift.py). With
`pixels="device"` the tower's own device resizes, and decodes what JPEGs it can (extraction/on_device.py).
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from featcache.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch

STYLES: Final = ("coop", "coop-2021", "clip")
PIXELS: Final = ("pil", "torch", "device")
INTERPOLATIONS: Final = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# Named, because PIL left to itself also tries EPS, which starts Ghostscript on what a data set holds. MPO, the JPEG of
# many telephones, is read by "JPEG".
FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

_TURNS: Final = {  # by EXIF orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Box = tuple[int, int, int, int]  # top, left, height, width in the original image


@dataclass(frozen=True, kw_only=True)
class Transform:
    """How an image becomes pixels: part of a store's key."""

    style: str
    """View 0: "coop" squashes both sides to `size`; "coop-2021" and "clip" bring the short side there and crop."""
    size: int
    """Side of the square that the image tower takes, in pixels."""
    mean: tuple[float, float, float]
    """Subtracted from pixels in [0, 1], per channel; the tower's own."""
    std: tuple[float, float, float]
    """Divides after `mean`; the tower's own."""
    interpolation: str = "bicubic"
    """"bicubic", as CLIP and CoOp have it, or "bilinear"; both antialiased."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Share of the image's area that an augmented view shows, in (0, 1]; CoOp's range (Tip-Adapter: 0.5 to 1)."""
    flip: float = 0.5
    """Probability that an augmented view is mirrored, in [0, 1]."""
    pixels: str = "pil"
    """Who resizes: "pil", the reference; "torch", which is faster; or the "device" of the tower, which decodes too."""

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        demands = {
            f"style is one of {', '.join(STYLES)}": self.style in STYLES,
            f"pixels is one of {', '.join(PIXELS)}": self.pixels in PIXELS,
            f"interpolation is one of {', '.join(INTERPOLATIONS)}": self.interpolation in INTERPOLATIONS,
            "size is at least 1 pixel": self.size >= 1,
            "mean has three values": len(self.mean) == 3,
            "std has three values above 0": len(self.std) == 3 and all(value > 0 for value in self.std),
            "crop_scale is (low, high) with 0 < low <= high <= 1": 0 < low <= high <= 1,
            "flip lies in [0, 1]": 0 <= self.flip <= 1,
        }
        for demand, holds in demands.items():
            if not holds:
                raise ConfigError(f"cannot use {self}: {demand}")


def decode(data: bytes, *, upright: bool = False) -> Image.Image:
    """RGB image, as PIL's `convert("RGB")` gives it: transparency is dropped.

    With `upright`, the image is turned as its EXIF data say; CoOp does not, and PIL itself does so with TIFF alone.
    16-bit grey keeps its high byte, as PIL does with 16-bit colour; `convert` alone would clip it to white. The first
    frame of an animation is taken. Raises DataError when the bytes are not an image that can be read whole, or when it
    has more than `PIL.Image.MAX_IMAGE_PIXELS` pixels.
    """
    try:
        with warnings.catch_warnings():
            # Odd palettes and metadata change no pixel; an image above PIL's limit must not pass with a warning.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                image = _rgb(opened)
                if upright and (turn := _turn(opened)) is not None:
                    image = image.transpose(turn)
    except DataError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"it is too large to decode safely ({error}); shrink it first") from error
    except UnidentifiedImageError as error:
        raise DataError(f"its {len(data)} bytes begin like none of {', '.join(FORMATS)}") from error
    except Exception as error:  # damaged files make PIL's readers raise almost anything
        raise DataError(f"it cannot be read whole ({type(error).__name__}: {error})") from error
    if not image.width or not image.height:
        raise DataError(f"it has no pixels ({image.width} x {image.height})")
    return image


def plain_jpeg(data: bytes, *, upright: bool = False) -> tuple[int, int] | None:
    """Width and height of a JPEG that any decoder brings to the same RGB; None for all else, which takes `decode`.

    That is one of grey or YCbCr, whole to its end marker, no larger than `decode` takes, and not to be turned.
    """
    if not data.startswith(b"\xff\xd8\xff") or not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as opened:
                plain = opened.mode in ("RGB", "L") and not (upright and _turn(opened) is not None)
                return opened.size if plain and opened.width and opened.height else None
    except Exception:  # `decode` will say what is wrong with it
        return None


class Layout(NamedTuple):
    """Where a view lies in its image, and how it is made of it."""

    box: Box
    """What the view shows, in the original image."""
    flip: bool
    """Mirrored left to right."""
    cut: bool
    """The box is cut out before resizing; else the whole image is resized, and the view cut out of that."""
    resized: tuple[int, int]
    """Width and height that the cut or the whole is brought to."""
    corner: tuple[int, int]
    """Left and top of the view in what has been resized."""

    @property
    def crop(self) -> NDArray[np.int32]:
        """(5,) as a store keeps it: top, left, height, width, flip."""
        return np.array([*self.box, self.flip], dtype=np.int32)


def lay(size: tuple[int, int], transform: Transform, *, number: int, path: str, seed: int) -> Layout:
    """The layout of one view of an image of this width and height.

    Number 0 is the test transform; a later one is a function of (seed, path, number) and the image's size alone, so
    view 7 needs no views 1 to 6 and no worker count, batch order or restart can change it. Raises DataError for an
    image too narrow for a style that crops.
    """
    assert number >= 0, number
    if number > 0:
        box, flip = _random_crop(size, transform, _uniforms(seed, path, number))
        return Layout(box, flip, cut=True, resized=(transform.size, transform.size), corner=(0, 0))
    try:
        return _TEST_LAYOUTS[transform.style](size, transform)
    except DataError as error:
        raise DataError(f"image {path} has no test view: {error}") from error


def view(
    image: Image.Image, transform: Transform, *, number: int, path: str, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Pixels (size, size, 3) and crop (5,) = top, left, height, width, flip of one view of an RGB image; see `lay`.

    The crop is in the original image's coordinates, flip is 0 or 1.
    """
    assert image.mode == "RGB", image.mode
    layout = lay(image.size, transform, number=number, path=path, seed=seed)
    resized = _squash(_cut(image, layout.box) if layout.cut else image, layout.resized, transform)
    size, (left, top) = transform.size, layout.corner
    if resized.size != (size, size):
        resized = resized.crop((left, top, left + size, top + size))
    if layout.flip:  # by PIL: numpy takes ten times as long to copy a mirrored array
        resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.array(resized), layout.crop  # a copy: PIL's own array is read-only, which torch warns about


def _rgb(image: Image.Image) -> Image.Image:
    """The image in RGB. Raises DataError for pixels whose range the file does not say."""
    sixteen_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if sixteen_bit:  # PIL before 11 opens such a PNG as "I"
        high_byte = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return Image.fromarray(high_byte).convert("RGB")
    if image.mode in ("I", "F"):
        raise DataError(f"its 32-bit pixels (mode {image.mode}) have no stated range; convert it to 8 or 16 bits")
    return image.convert("RGB")


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes a loaded image upright; None where it is, or where its EXIF data are damaged and so say nothing.

    Not `ImageOps.exif_transpose`, which also writes the EXIF data anew and so fails on tags that have no bearing here.
    """
    try:
        orientation: object = image.getexif().get(ExifTags.Base.Orientation)
        return _TURNS.get(orientation) if isinstance(orientation, int) else None
    except Exception:  # as many kinds as there are ways to damage it; viewers show such images as they lie
        return None


def _squashed(size: tuple[int, int], transform: Transform) -> Layout:
    """torchvision's Resize((size, size)), and the whole image as its box."""
    width, height = size
    return Layout((0, 0, height, width), False, cut=False, resized=(transform.size, transform.size), corner=(0, 0))


def _centred(of: tuple[int, int], transform: Transform) -> Layout:
    """torchvision's Resize(size) then CenterCrop(size), and the box this shows of the original image."""
    size, short, long = transform.size, min(of), max(of)
    resized_long = int(size * long / short)
    if Image.MAX_IMAGE_PIXELS is not None and size * resized_long > Image.MAX_IMAGE_PIXELS:
        raise DataError(
            f"it is {of[0]} x {of[1]} pixels, too narrow for style {transform.style}, which would make its long side "
            f"{resized_long}; crop it first, or use style coop"
        )
    width, height = (size, resized_long) if of[0] <= of[1] else (resized_long, size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    box = (
        min(round(top * of[1] / height), of[1] - short),
        min(round(left * of[0] / width), of[0] - short),
        short,
        short,
    )
    return Layout(box, False, cut=False, resized=(width, height), corner=(left, top))


_TEST_LAYOUTS: Final = {"coop": _squashed, "coop-2021": _centred, "clip": _centred}


def _random_crop(size: tuple[int, int], transform: Transform, uniforms: Iterator[float]) -> tuple[Box, bool]:
    """Box and flip of a random resized crop, by torchvision's rule (RandomResizedCrop.get_params)."""
    width, height = size
    flip = next(uniforms) < transform.flip  # first, so that it does not hang on the number of attempts
    low, high = transform.crop_scale
    for _ in range(10):
        area = width * height * (low + (high - low) * next(uniforms))
        ratio = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * next(uniforms))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = int((height - h + 1) * next(uniforms)), int((width - w + 1) * next(uniforms))
            return (top, left, h, w), flip
    return _widest_centre(width, height), flip


def _widest_centre(width: int, height: int) -> Box:
    """The largest central box whose ratio lies in [3/4, 4/3]: what is left for images too narrow to crop at random."""
    w, h = width, height
    if width / height < 3 / 4:
        h = round(width / (3 / 4))
    elif width / height > 4 / 3:
        w = round(height * (4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def _cut(image: Image.Image, box: Box) -> Image.Image:
    """The box as an image of its own: PIL's `resize(box=..)` would let pixels from outside bleed in."""
    top, left, height, width = box
    return image.crop((left, top, left + width, top + height))


def _squash(image: Image.Image, size: tuple[int, int], transform: Transform) -> Image.Image:
    if transform.pixels == "pil":
        return image.resize(size, INTERPOLATIONS[transform.interpolation])
    import torch

    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (3, height, width), channels last in memory
    resize = {"torch": _resize_bytes, "device": resize_floats}[transform.pixels]
    return Image.fromarray(resize(pixels, size, transform.interpolation).permute(1, 2, 0).contiguous().numpy())


def _resize_bytes(pixels: torch.Tensor, size: tuple[int, int], interpolation: str) -> torch.Tensor:
    """The same filter in torch's vector code for bytes, whose weights have 16 bits where PIL's have 22."""
    from torch.nn.functional import interpolate

    return interpolate(pixels[None], size[::-1], mode=interpolation, antialias=True)[0]


def resize_floats(pixels: torch.Tensor, size: tuple[int, int], interpolation: str) -> torch.Tensor:
    """The same filter in float32, on any device: bytes (3, height, width) brought to this width and height."""
    from torch.nn.functional import interpolate

    resized = interpolate(pixels[None].float(), size[::-1], mode=interpolation, antialias=True)[0]
    return resized.round_().clamp_(0, 255).to(pixels.dtype)


def _uniforms(seed: int, path: str, number: int) -> Iterator[float]:
    """Endless numbers in [0, 1) with 53 random bits, a function of the arguments alone: BLAKE2b in counter mode."""
    block = 0
    while True:
        # The path comes last: it alone may hold any character, so no two arguments give the same message.
        message = f"{seed} {number} {block} {path}".encode()
        words = np.frombuffer(blake2b(message, person=b"featcache/views1").digest(), dtype="<u8")  # (8,)
        yield from ((words >> 11) * 2.0**-53).tolist()
        block += 1
