"""A folder of images with a preset: size, crop and formula of each; folders in it are classes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from quantcli.cli.options import PRESETS
from quantcli.data import InputSpec, open_dataset
from quantcli.data.framing import Preset
from quantcli.errors import DatasetError

F32 = np.dtype("float32")
NCHW = InputSpec("x", F32, ("n", 3, 8, 8))
NHWC = InputSpec("x", F32, (1, 8, 8, 3))
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


@pytest.fixture
def picture(tmp_path):
    """Write a picture and return it."""

    def write(name="a.png", width=20, height=12, seed=0):
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels)
        image.save(path)
        return image

    return write


def fed(tmp_path, spec, preset):
    (feed,) = open_dataset(tmp_path / "images", [spec], preset=preset)
    return feed[spec.name][0]


def failure(path, inputs, **options):
    with pytest.raises(DatasetError) as caught:
        open_dataset(path, inputs, **options).check()
    assert caught.value.hint
    return caught.value.message


def pixels(image, size, box=None):
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box), np.float32)


def test_the_command_line_offers_the_presets_there_are():
    assert tuple(Preset) == PRESETS


def test_unit_is_0_to_1(tmp_path, picture):
    expected = pixels(picture(), (8, 8)) / 255
    np.testing.assert_allclose(fed(tmp_path, NHWC, "unit"), expected, atol=1e-6)
    np.testing.assert_allclose(fed(tmp_path, NCHW, "unit"), expected.transpose(2, 0, 1), atol=1e-6)


def test_signed_is_minus_1_to_1(tmp_path, picture):
    expected = pixels(picture(), (8, 8)) / 127.5 - 1
    np.testing.assert_allclose(fed(tmp_path, NHWC, "signed"), expected, atol=1e-6)


def test_imagenet_tf_takes_the_middle_of_both_sides(tmp_path, picture):
    image = picture(width=80, height=48)
    expected = pixels(image, (8, 8), box=(5, 3, 75, 45)) / 127.5 - 1
    np.testing.assert_allclose(fed(tmp_path, NHWC, "imagenet-tf"), expected, atol=1e-6)


@pytest.mark.parametrize(("width", "height", "scaled"), [(500, 375, (341, 256)), (300, 400, (256, 341))])
def test_imagenet_torch_is_that_of_torchvision(tmp_path, picture, width, height, scaled):
    """Resize(256): the shorter side, the longer one rounded down; CenterCrop(224): the corner is rounded."""
    image = picture(width=width, height=height)
    left, top = round((scaled[0] - 224) / 2.0), round((scaled[1] - 224) / 2.0)
    cut = pixels(image, scaled)[top : top + 224, left : left + 224]
    expected = (cut / 255 - MEAN) / STD
    found = fed(tmp_path, InputSpec("x", F32, ("n", 3, 224, 224)), "imagenet-torch")
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("preset", "shape"), [("imagenet-torch", (224, 224)), ("imagenet-tf", (224, 224)), ("unit", (12, 20))]
)
def test_a_free_size_is_that_of_the_preset_or_of_the_picture(tmp_path, picture, preset, shape):
    picture()
    assert fed(tmp_path, InputSpec("x", F32, ("n", 3, "h", "w")), preset).shape == (3, *shape)


def test_one_channel_is_gray(tmp_path, picture):
    image = picture()
    expected = pixels(image.convert("L"), (8, 8)) / 255
    np.testing.assert_allclose(fed(tmp_path, InputSpec("x", F32, (1, 1, 8, 8)), "unit")[0], expected, atol=1e-6)
    gray = fed(tmp_path, InputSpec("x", F32, (1, 1, 8, 8)), "imagenet-torch")
    assert gray.shape == (1, 8, 8)


def test_integers_are_pixels_in_the_size_of_the_preset(tmp_path, picture):
    image = picture()
    for preset in ("signed", None):
        found = fed(tmp_path, InputSpec("x", np.dtype("uint8"), (1, 8, 8, 3)), preset)
        np.testing.assert_array_equal(found, pixels(image, (8, 8)))


def test_bgr_beside_a_preset_reverses_mean_and_std(tmp_path, picture):
    picture()
    spec = tmp_path / "calib.yaml"
    texts = [f"inputs: {{x: {{images: images/*.png, preset: imagenet-torch{c}}}}}" for c in ("", ", color: BGR")]
    arrays = []
    for text in texts:
        spec.write_text(text)
        (feed,) = open_dataset(spec, [NCHW])
        arrays.append(feed["x"])
    np.testing.assert_array_equal(arrays[0][:, ::-1], arrays[1])


def test_a_spec_may_ask_for_another_size_and_layout(tmp_path, picture):
    picture()
    (tmp_path / "c.yaml").write_text("inputs: {x: {images: images/*.png, preset: unit, resize: [4, 6], layout: NHWC}}")
    (feed,) = open_dataset(tmp_path / "c.yaml", [InputSpec("x", F32, ("n", "h", "w", "c"))])
    assert feed["x"].shape == (1, 4, 6, 3)


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "webp"])
def test_images_are_found_in_folders_by_their_suffix(tmp_path, picture, kind):
    picture(f"deep/er/a.{kind.upper()}")
    (tmp_path / "images/notes.txt").write_text("no image")
    assert len(open_dataset(tmp_path / "images", [NCHW], preset="unit")) == 1


def test_folders_are_classes(tmp_path, picture):
    for i, name in enumerate(["cat/1.png", "cat/2.png", "ant/1.png", "dog/1.png"]):
        picture(name, seed=i)
    data = open_dataset(tmp_path / "images", [NCHW], preset="unit")
    assert data.implied
    assert sorted(data.classes()) == [0, 1, 1, 2]


def test_folders_with_numbers_are_these_classes(tmp_path, picture):
    for i, name in enumerate(["7/1.png", "10/2.png"]):
        picture(name, seed=i)
    assert sorted(open_dataset(tmp_path / "images", [NCHW], preset="unit").classes()) == [7, 10]


@pytest.mark.parametrize(
    "names", [["a.png", "b.png"], ["one/a.png", "one/b.png"], ["a/a.png", "b.png"], ["a/b/1.png", "c/d/2.png"]]
)
def test_other_folders_are_no_classes(tmp_path, picture, names):
    for i, name in enumerate(names):
        picture(name, seed=i)
    assert open_dataset(tmp_path / "images", [NCHW], preset="unit").classes() == []


def test_balanced_takes_as_many_of_each_class(tmp_path, picture):
    for label, count in (("a", 6), ("b", 2), ("c", 3)):
        for i in range(count):
            picture(f"{label}/{i}.png", seed=10 * count + i)
    spec = tmp_path / "calib.yaml"
    texts = {
        "": [0, 0, 1, 1, 2, 2],
        "samples: 3": [0, 1, 2],
        "samples: 8": [0, 0, 0, 1, 1, 2, 2, 2],
        "samples: 100": [0] * 6 + [1] * 2 + [2] * 3,
    }
    for text, classes in texts.items():
        spec.write_text(f"source: images\npreset: unit\nbalanced: true\nseed: 1\n{text}")
        assert sorted(open_dataset(spec, [NCHW]).classes()) == classes


@pytest.mark.parametrize(
    ("inputs", "options", "said"),
    [
        ([NCHW], {}, "images say nothing of how input 'x' is fed, expected a preset: imagenet-torch"),
        ([NCHW], {"preset": "imagenet"}, "preset 'imagenet', expected one of"),
        ([NCHW], {"preset": "units"}, "did you mean 'unit'"),
        ([InputSpec("x", F32, (1, 16, 8, 8))], {"preset": "unit"}, "takes [1, 16, 8, 8], expected an image"),
        ([InputSpec("x", F32, (1, 10))], {"preset": "unit"}, "takes [1, 10], expected an image"),
        ([InputSpec("x", F32, (1, 3, 8, 3))], {"preset": "unit"}, "takes [1, 3, 8, 3], expected an image"),
        ([NCHW, InputSpec("m", F32, (1, 4))], {"preset": "unit"}, "input 'm' is missing"),
        ([NCHW, InputSpec("z", F32, (1, 3, 8, 8))], {"preset": "unit"}, "expected a model with one input for them"),
    ],
)
def test_what_images_do_not_say_is_asked_for(tmp_path, picture, inputs, options, said):
    picture()
    assert said in failure(tmp_path / "images", inputs, **options)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("inputs: {x: {images: images/*.png, preset: unit, mean: 3}}", "mean stands beside preset 'unit'"),
        ("inputs: {x: {images: images/*.png, preset: units}}", "did you mean 'unit'"),
        ("preset: unit\ninputs: {x: {images: images/*.png}}", "preset stands beside 'inputs'"),
        ("source: images\npreset: unit\nbalanced: true", "balanced without labels"),
        ("source: images\npreset: unit\nbalanced: maybe", "balanced is 'maybe', expected true or false"),
        ("source: nowhere\npreset: unit", "no such file or folder"),
    ],
)
def test_a_wrong_spec_is_named(tmp_path, picture, text, said):
    picture()
    (tmp_path / "calib.yaml").write_text(text)
    message = failure(tmp_path / "calib.yaml", [NCHW])
    assert said in message


def test_a_preset_without_images_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((1, 3, 8, 8), np.float32))
    (tmp_path / "calib.yaml").write_text("inputs: {x: {npz: a.npz}}")
    for path in (tmp_path / "a.npz", tmp_path, tmp_path / "calib.yaml"):
        assert "preset 'unit', expected none" in failure(path, [NCHW], preset="unit")
