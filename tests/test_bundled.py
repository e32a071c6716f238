"""The bundled data set's pixels and rules, and the bundled backbone's file."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from featcache.bundled import captions, drawing, scenes, shapes
from featcache.bundled.drawing import Stream
from featcache.errors import DataError

BUNDLED = Path(shapes.__file__).parent
CONFIG, WEIGHTS = BUNDLED / "tiny.json", BUNDLED / "tiny.safetensors"

# These change only together with the weights: a new renderer is a new data set.
GOLDEN = {
    "train/star-of-stripes/0000.png": "27ab1c50f60eda87",
    "train/garland-of-hearts/0007.png": "7e17a272e000e0e6",
    "train/sprinkled-hexagon/0019.png": "3bdbdd8b3658b962",
    "val/star-of-stripes/0000.png": "d948b2151cf88106",
    "val/garland-of-hearts/0007.png": "ab17c4a70c390d23",
    "val/sprinkled-hexagon/0019.png": "bb3bd45bd0eca125",
    "test/star-of-stripes/0000.png": "839bde493f96131e",
    "test/garland-of-hearts/0007.png": "eb21f45d5dc88d3d",
    "test/sprinkled-hexagon/0019.png": "eb89df8a55580f02",
    "sketch/star-of-stripes/0000.png": "4db4d480dc6d94c5",
    "sketch/garland-of-hearts/0007.png": "d5f5764440f8b5e0",
    "sketch/sprinkled-hexagon/0019.png": "3fdfca5c44bd4cda",
    "noise/star-of-stripes/0000.png": "598584aa7b86574d",
    "noise/garland-of-hearts/0007.png": "4964166c7e74d1ce",
    "noise/sprinkled-hexagon/0019.png": "0bb75f50c6502926",
}


def digest(path: str) -> str:
    return hashlib.sha256(shapes.read(path).tobytes()).hexdigest()[:16]


def some_scene(number: int) -> tuple[scenes.Scene, Stream]:
    stream = Stream(drawing.mix(number))
    return scenes.compose(captions.training_subject(stream), stream), stream


# -- the data set ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", GOLDEN)
def test_pixels_are_golden(path: str) -> None:
    assert digest(path) == GOLDEN[path]


def test_pixels_hang_on_the_path_alone() -> None:
    backwards = {path: digest(path) for path in reversed(GOLDEN)}
    code = (
        "import sys, hashlib; from featcache.bundled.shapes import read\n"
        "for path in sys.argv[1:]: print(hashlib.sha256(read(path).tobytes()).hexdigest()[:16])"
    )
    command = [sys.executable, "-c", code, *GOLDEN]
    elsewhere = subprocess.run(command, capture_output=True, text=True, check=True)
    assert elsewhere.stdout.split() == [backwards[path] for path in GOLDEN]


def test_renderer_needs_numpy_and_nothing_else() -> None:
    code = (
        "import sys; import featcache.bundled.shapes as s; s.read('test/star-of-stripes/0000.png'); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "PIL", "open_clip", "scipy", "cv2", "matplotlib"} & set(loaded)


@pytest.mark.parametrize("split", shapes.SPLITS)
def test_splits_hold_what_they_promise(split: str) -> None:
    listed = shapes.paths(split)
    assert len(listed) == len(set(listed)) == shapes.SPLITS[split] * len(shapes.CLASSES)
    labels = [label for _, label in listed]
    assert all(labels.count(label) == shapes.SPLITS[split] for label in range(len(shapes.CLASSES)))
    for path, label in listed[:: len(listed) // 30]:
        assert path.startswith(f"{split}/{shapes.CLASSES[label].replace(' ', '-')}/")
        image = shapes.read(path)
        assert image.shape == (scenes.HEIGHT, scenes.WIDTH, 3)
        assert image.dtype == np.uint8
        assert image.std() > 1


def test_no_two_images_are_alike() -> None:
    every = [path for split in shapes.SPLITS for path, _ in shapes.paths(split)]
    assert len(every) == len(set(every))
    some = every[::29]
    assert len({digest(path) for path in some}) == len(some)


def test_a_sketch_has_no_colour() -> None:
    for path, _ in shapes.paths("sketch")[::100]:
        image = shapes.read(path).astype(int)
        noise = shapes.scene_at(path).noise
        assert (image.max(2) - image.min(2)).max() <= noise + 1


@pytest.mark.parametrize(
    "path",
    [
        "",
        "train",
        "train/star-of-stripes/0064.png",
        "train/star-of-stripes/7.png",
        "train/star-of-stripes/0007.jpg",
        "train/star of stripes/0007.png",
        "dev/star-of-stripes/0007.png",
        "/train/star-of-stripes/0007.png",
        "../train/star-of-stripes/0007.png",
        "train/star-of-stripes/٠٠٠٧.png",
    ],
)
def test_a_wrong_path_is_refused(path: str) -> None:
    with pytest.raises(DataError, match="shapes has no image"):
        shapes.read(path)


def test_a_wrong_split_is_refused() -> None:
    with pytest.raises(DataError, match="train, val, test, sketch, noise"):
        shapes.paths("dev")


# -- captions --------------------------------------------------------------------------------------------------------


def test_no_caption_holds_a_class_name() -> None:
    for number in range(8000):
        scene, stream = some_scene(number)
        text = captions.caption(scene, stream)
        assert not [name for name in shapes.CLASSES if name in text], text


def test_no_training_picture_shows_a_class() -> None:
    for name in shapes.CLASSES:
        assert all(captions.is_held_out(captions.class_subject(name, Stream(key))) for key in range(20))
    assert not any(captions.is_held_out(some_scene(number)[0].subject) for number in range(2000))


def test_captions_are_deterministic_and_many() -> None:
    scene, _ = some_scene(5)
    said = [captions.caption(scene, Stream(key)) for key in range(200)]
    assert said == [captions.caption(scene, Stream(key)) for key in range(200)]
    assert len(set(said)) > 50


def test_every_class_name_has_a_word_that_captions_have() -> None:
    heard = {noun for nouns in captions.SHAPES.values() for noun in (*nouns, *(f"{noun}s" for noun in nouns))}
    assert all(heard & set(name.split()) for name in shapes.CLASSES)


# -- the backbone ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> open_clip.CLIP:
    if CONFIG.stem not in open_clip.list_models():
        open_clip.add_model_config(CONFIG)
    return open_clip.create_model("tiny", pretrained=str(WEIGHTS)).eval()


def prepared(path: str) -> torch.Tensor:
    transform = image_transform_v2(PreprocessCfg(size=64, resize_mode="squash"), is_train=False)
    return transform(Image.fromarray(shapes.read(path)))


def test_weights_are_small_and_half_precision(tiny: open_clip.CLIP) -> None:
    assert WEIGHTS.stat().st_size < 9_000_000
    assert 10 < tiny.logit_scale.exp().item() <= 100
    assert tiny.context_length >= 32
    assert all(
        torch.equal(value, value.half().float()) for value in tiny.state_dict().values() if value.is_floating_point()
    )


@torch.inference_mode()
def test_rows_do_not_hang_on_their_neighbours(tiny: open_clip.CLIP) -> None:
    images = torch.stack([prepared(path) for path, _ in shapes.paths("val")[::30]])  # (N, 3, 64, 64)
    together = tiny.encode_image(images)  # (N, D)
    reversed_rows = tiny.encode_image(images.flip(0)).flip(0)
    torch.testing.assert_close(together, reversed_rows, rtol=1e-4, atol=1e-5)
    assert torch.isfinite(together.half()).all()


@torch.inference_mode()
def test_zero_shot_accuracy_is_neither_chance_nor_solved(tiny: open_clip.CLIP) -> None:
    tokenizer = open_clip.get_tokenizer("tiny")
    text = tiny.encode_text(tokenizer([shapes.TEMPLATE.format(name) for name in shapes.CLASSES]), normalize=True)
    listed = shapes.paths("val")[::2]
    images = torch.stack([prepared(path) for path, _ in listed])
    guess = (tiny.encode_image(images, normalize=True) @ text.T).argmax(1)  # (N,)
    accuracy = (guess == torch.tensor([label for _, label in listed])).float().mean().item()
    assert 0.30 < accuracy < 0.80
