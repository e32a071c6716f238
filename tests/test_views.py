"""Pixels equal torchvision's bit for bit, boxes hang on (seed, path, number) alone, odd files decode or say why not."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import random
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tvf

from featcache.errors import ConfigError, DataError
from featcache.views import STYLES, Transform, decode, view

COOP = Transform(style="coop", size=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
CLIP = dataclasses.replace(COOP, style="clip")
SIZES = [
    (1, 1),
    (1, 37),
    (37, 1),
    (2, 500),
    (500, 3),
    (64, 64),
    (224, 224),
    (63, 65),
    (300, 200),
    (200, 301),
    (640, 97),
]


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def torchvision_test_view(image: Image.Image, transform: Transform) -> np.ndarray:
    size, mode = transform.size, InterpolationMode(transform.interpolation)
    steps = {
        "coop": [transforms.Resize((size, size), mode)],
        "coop-2021": [transforms.Resize(max(size, size), mode), transforms.CenterCrop((size, size))],  # as Dassl has it
        "clip": [transforms.Resize(size, mode), transforms.CenterCrop(size)],
    }
    return np.array(transforms.Compose(steps[transform.style])(image))


def torchvision_crop(image: Image.Image, transform: Transform, crop: np.ndarray) -> np.ndarray:
    top, left, height, width, flip = crop.tolist()
    size, mode = [transform.size] * 2, InterpolationMode(transform.interpolation)
    out = tvf.resized_crop(image, top, left, height, width, size, mode, antialias=True)
    return np.array(tvf.hflip(out) if flip else out)


def check_against_torchvision(image: Image.Image, transform: Transform, path: str) -> None:
    pixels, _ = view(image, transform, number=0, path=path, seed=1)
    np.testing.assert_array_equal(pixels, torchvision_test_view(image, transform))
    for number in range(1, 7):
        pixels, crop = view(image, transform, number=number, path=path, seed=1)
        np.testing.assert_array_equal(pixels, torchvision_crop(image, transform, crop))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pixels_equal_torchvisions(style: str, size: int, width: int, height: int) -> None:
    transform = dataclasses.replace(COOP, style=style, size=size)
    check_against_torchvision(noise(width, height), transform, f"{width}x{height}")


def test_pixels_equal_torchvisions_when_bilinear() -> None:
    check_against_torchvision(noise(90, 70), dataclasses.replace(CLIP, interpolation="bilinear"), "a.png")


def test_coop_2021_and_clip_are_two_names_of_one_view() -> None:
    for width, height in SIZES:
        image = noise(width, height)
        for number in (0, 1):
            ours = [
                view(image, dataclasses.replace(COOP, style=style), number=number, path="a", seed=1)
                for style in ("coop-2021", "clip")
            ]
            np.testing.assert_array_equal(ours[0][0], ours[1][0])
            np.testing.assert_array_equal(ours[0][1], ours[1][1])


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize("folder", ["caltech-101", "dtd", "eurosat"])
def test_pixels_equal_torchvisions_on_real_images(real_data: Path, style: str, size: int, folder: str) -> None:
    files = sorted(file for file in (real_data / "images" / folder).rglob("*") if file.suffix in (".jpg", ".png"))
    for file in files[:: len(files) // 6]:
        image = decode(file.read_bytes())
        with Image.open(file) as reference:
            np.testing.assert_array_equal(np.array(image), np.array(reference.convert("RGB")))
        check_against_torchvision(image, dataclasses.replace(COOP, style=style, size=size), file.name)


@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    low=st.floats(0.01, 1),
    seed=st.integers(0, 2**64),
    path=st.text(max_size=20),
)
@example(width=1, height=1, low=0.08, seed=0, path="")
def test_boxes_lie_in_the_image_and_keep_scale_and_ratio(
    width: int, height: int, low: float, seed: int, path: str
) -> None:
    transform = dataclasses.replace(COOP, size=4, crop_scale=(low, 1.0))
    image = Image.new("RGB", (width, height))
    for number in range(4):
        pixels, crop = view(image, transform, number=number, path=path, seed=seed)
        top, left, h, w, flip = crop.tolist()
        assert pixels.shape == (4, 4, 3)
        assert pixels.dtype == np.uint8
        assert pixels.flags.writeable
        assert pixels.flags.c_contiguous
        assert crop.dtype == np.int32
        assert 0 <= top <= top + h <= height
        assert 0 <= left <= left + w <= width
        assert h > 0
        assert w > 0
        assert flip in (0, 1)
        if number and min(h, w) >= 20:
            assert 3 / 4 * 0.93 <= w / h <= 4 / 3 * 1.07


def test_boxes_are_spread_as_torchvisions() -> None:
    image = Image.new("RGB", (400, 300))
    ours = np.array([view(image, COOP, number=n, path="a", seed=3)[1] for n in range(1, 3001)], dtype=float)
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        pick = transforms.RandomResizedCrop.get_params
        theirs = np.array([pick(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)], dtype=float)
    for column in range(4):
        # Kolmogorov-Smirnov distance; 0.05 has p < 0.001 at this size.
        points = np.sort(np.concatenate([ours[:, column], theirs[:, column]]))
        distance = np.abs(
            np.searchsorted(np.sort(ours[:, column]), points, "right")
            - np.searchsorted(np.sort(theirs[:, column]), points, "right")
        )
        assert distance.max() / 3000 < 0.05
    assert abs(ours[:, 4].mean() - 0.5) < 0.03


def test_a_view_hangs_on_seed_path_and_number_alone() -> None:
    image = noise(120, 80)
    first = view(image, COOP, number=7, path="a/b.jpg", seed=1)
    random.seed(9)
    np.random.seed(9)
    for number in (3, 1):
        view(image, COOP, number=number, path="a/b.jpg", seed=1)
    again = view(image, COOP, number=7, path="a/b.jpg", seed=1)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    for other in ({"number": 8}, {"path": "a/c.jpg"}, {"seed": 2}):
        changed = view(image, COOP, **{"number": 7, "path": "a/b.jpg", "seed": 1, **other})
        assert changed[1].tolist() != first[1].tolist()


GOLDEN = {
    (1, "a.jpg", 1): [94, 81, 240, 280, 1],
    (1, "a.jpg", 2): [53, 173, 175, 139, 0],
    (2, "a.jpg", 1): [50, 39, 204, 163, 1],
    (1, "101_ObjectCategories/ant/image_0001.jpg", 10): [93, 75, 255, 310, 1],
    (1, "Ärmel/ω.png", 3): [107, 299, 195, 178, 0],
}


@pytest.mark.parametrize("key", GOLDEN)
def test_golden_boxes(key: tuple[int, str, int]) -> None:
    """A change here changes every store's augmented rows under an unchanged key."""
    seed, path, number = key
    _, crop = view(Image.new("RGB", (500, 375)), COOP, number=number, path=path, seed=seed)
    assert crop.tolist() == GOLDEN[key]


def test_test_views_report_what_they_show() -> None:
    wide, tall = Image.new("RGB", (300, 100)), Image.new("RGB", (100, 300))
    assert view(wide, COOP, number=0, path="a", seed=1)[1].tolist() == [0, 0, 100, 300, 0]
    assert view(wide, CLIP, number=0, path="a", seed=1)[1].tolist() == [0, 100, 100, 100, 0]
    assert view(tall, CLIP, number=0, path="a", seed=1)[1].tolist() == [100, 0, 100, 100, 0]


def test_flip_and_scale_ends() -> None:
    image = noise(90, 90)
    for flip in (0.0, 1.0):
        transform = dataclasses.replace(COOP, flip=flip)
        crops = [view(image, transform, number=n, path="a", seed=1)[1] for n in range(1, 30)]
        assert {crop[4] for crop in crops} == {int(flip)}
    whole = dataclasses.replace(COOP, crop_scale=(1.0, 1.0), flip=0.0)
    boxes = [view(image, whole, number=n, path="a", seed=1)[1].tolist() for n in range(1, 10)]
    assert [0, 0, 90, 90, 0] in boxes  # ratios other than 1 do not fit: the fallback


@pytest.mark.parametrize("style", ["coop-2021", "clip"])
def test_a_thread_of_an_image_is_refused_by_styles_that_crop(style: str) -> None:
    with pytest.raises(DataError, match=rf"image a\.png .* too narrow for style {style},"):
        view(Image.new("RGB", (40000, 1)), dataclasses.replace(COOP, style=style), number=0, path="a.png", seed=1)
    assert view(Image.new("RGB", (40000, 1)), COOP, number=0, path="a", seed=1)[0].shape == (64, 64, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"style": "squash"},
        {"size": 0},
        {"interpolation": "nearest"},
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.5, 0.4)},
        {"crop_scale": (0.5, 1.5)},
        {"flip": 1.1},
        {"flip": float("nan")},
        {"std": (0.1, 0.0, 0.1)},
        {"mean": (0.5,)},
    ],
)
def test_unusable_transforms(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="cannot use Transform"):
        dataclasses.replace(COOP, **change)


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def modes() -> dict[str, bytes]:
    """Files of every usual mode, by a short name."""
    image = noise(30, 20)
    palette = image.quantize(16)
    alpha = Image.merge("RGBA", [*image.split(), image.convert("L")])
    return {
        "RGB jpeg": encoded(image, "JPEG"),
        "grey jpeg": encoded(image.convert("L"), "JPEG"),
        "CMYK jpeg": encoded(image.convert("CMYK"), "JPEG"),
        "CMYK tiff": encoded(image.convert("CMYK"), "TIFF"),
        "palette png": encoded(palette, "PNG"),
        "palette with transparent index": encoded(palette, "PNG", transparency=3),
        "palette with bytes of transparency": encoded(palette, "PNG", transparency=bytes(range(16))),
        "RGBA png": encoded(alpha, "PNG"),
        "grey and alpha": encoded(alpha.convert("LA"), "PNG"),
        "one bit": encoded(image.convert("1"), "PNG"),
        "gif": encoded(palette, "GIF"),
        "animated gif": encoded(palette, "GIF", save_all=True, append_images=[noise(30, 20).quantize(4)]),
        "webp": encoded(alpha, "WEBP"),
        "animated webp": encoded(image, "WEBP", save_all=True, append_images=[noise(30, 20).rotate(180)]),
        "mpo": encoded(image, "MPO", save_all=True, append_images=[noise(15, 10)]),
        "RGBA webp without loss": encoded(alpha, "WEBP", lossless=True),
        "1 x 1 grey and alpha": encoded(Image.new("LA", (1, 1), (7, 0)), "PNG"),
        "bmp": encoded(image, "BMP"),
        "tiff": encoded(image, "TIFF"),
        "rotated jpeg": encoded(image, "JPEG", exif=oriented(6)),
        "LAB tiff": encoded(Image.merge("LAB", image.split()), "TIFF"),
    }


@pytest.mark.parametrize("name", modes())
def test_decode_equals_convert(name: str) -> None:
    data = modes()[name]
    image = decode(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = Image.open(io.BytesIO(data)).convert("RGB")
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.array(image), np.array(reference))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled(kind: str) -> None:
    values = np.array([[0, 255, 256, 32767, 32768, 65535]], dtype=np.uint16)
    image = decode(encoded(Image.fromarray(values), kind))
    np.testing.assert_array_equal(np.array(image)[..., 0], values >> 8)
    np.testing.assert_array_equal(np.array(image)[..., 0], np.array(image)[..., 2])


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def sixteen_bit_png(values: np.ndarray) -> bytes:
    """A PNG of 16-bit values (height, width, channels), which PIL itself cannot write in colour or with alpha."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bit_png_keeps_the_high_bytes(channels: int) -> None:
    values = np.random.default_rng(channels).integers(0, 65536, (3, 5, channels), dtype=np.uint16)
    high = (values >> 8).astype(np.uint8)
    expected = high[..., :3] if channels > 2 else high[..., [0, 0, 0]]
    np.testing.assert_array_equal(np.array(decode(sixteen_bit_png(values))), expected)


TURNED = [(kind, orientation) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "MPO") for orientation in range(1, 9)]


@pytest.mark.parametrize(("kind", "orientation"), TURNED)
def test_exif_rotation_is_applied_to_upright_images_alone(kind: str, orientation: int) -> None:
    data = encoded(noise(30, 20), kind, exif=oriented(orientation))
    with Image.open(io.BytesIO(data)) as opened:
        as_it_lies, turned = np.array(opened.convert("RGB")), np.array(ImageOps.exif_transpose(opened.convert("RGB")))
        if kind == "TIFF":  # PIL turns these by itself
            turned = as_it_lies
    np.testing.assert_array_equal(np.array(decode(data)), as_it_lies)
    np.testing.assert_array_equal(np.array(decode(data, upright=True)), turned)
    assert turned.shape[:2] == ((20, 30) if orientation < 5 else (30, 20))


def test_rotation_stated_in_xmp_is_applied() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encoded(noise(30, 20), "JPEG", xmp=xmp)
    assert (decode(data).size, decode(data, upright=True).size) == ((30, 20), (20, 30))


def raw_exif(*entries: bytes) -> bytes:
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)


ORIENTATION_6 = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)


@pytest.mark.parametrize(
    ("exif", "size"),
    [
        (raw_exif(ORIENTATION_6), (20, 30)),
        # A resolution in letters: PIL's exif_transpose raises TypeError, though the orientation is sound.
        (raw_exif(ORIENTATION_6, struct.pack("<HHI", 0x011A, 2, 4) + b"abc\0"), (20, 30)),
        (raw_exif(struct.pack("<HHI", 0x0112, 2, 2) + b"6\0\0\0"), (30, 20)),
        (raw_exif(struct.pack("<HHIHH", 0x0112, 3, 1, 9, 0)), (30, 20)),
        (raw_exif(ORIENTATION_6)[:20], (30, 20)),
        (b"Exif\0\0" + bytes(range(200)), (30, 20)),
        (b"Exif\0\0", (30, 20)),
    ],
)
def test_odd_exif_data_make_no_image_unreadable(exif: bytes, size: tuple[int, int]) -> None:
    assert decode(encoded(noise(30, 20), "JPEG", exif=exif), upright=True).size == size


def unusable() -> dict[str, tuple[bytes, str]]:
    jpeg, png = encoded(noise(60, 50), "JPEG"), encoded(noise(60, 50), "PNG")
    broken = bytearray(png)
    broken[len(broken) // 2] ^= 0xFF
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    return {
        "empty": (b"", "0 bytes begin like none of"),
        "text": (b"<html>not found</html>", "like none of JPEG, PNG"),
        "truncated jpeg": (jpeg[: len(jpeg) // 2], "cannot be read whole"),
        "truncated png": (png[: len(png) // 2], "cannot be read whole"),
        "flipped byte": (bytes(broken), "cannot be read whole"),
        "only a header": (png[:33], "like none of"),
        "bomb": (png[:8] + header + png_chunk(b"IDAT", zlib.compress(bytes(9))), "too large"),
        "float": (encoded(Image.new("F", (3, 3)), "TIFF"), "mode F"),
        "32-bit integers": (encoded(Image.new("I", (3, 3)), "TIFF"), "mode I"),
        "eps": (eps, "like none of"),
    }


@pytest.mark.parametrize("name", unusable())
def test_unusable_bytes_are_refused(name: str) -> None:
    data, reason = unusable()[name]
    with pytest.raises(DataError, match=reason):
        decode(data)


def test_the_limit_of_pixels_is_an_error_not_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(noise(30, 20), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 599)
    with pytest.raises(DataError, match="too large"):
        decode(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    assert decode(data).size == (30, 20)


@given(data=st.sampled_from([*modes().values()]), place=st.floats(0, 1), damage=st.binary(min_size=1, max_size=9))
def test_damaged_files_decode_or_are_refused(data: bytes, place: float, damage: bytes) -> None:
    at = int(place * len(data))
    with contextlib.suppress(DataError):  # any other exception, or a warning, fails the test
        assert decode(data[:at] + damage + data[at + len(damage) :], upright=True).mode == "RGB"


def test_what_loader_processes_import_does_not_load_torch() -> None:
    code = (
        "import featcache.datasets, featcache.fewshot, featcache.views, sys; "
        "assert not {'torch', 'open_clip', 'torchvision', 'h5py'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
