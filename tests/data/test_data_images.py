"""Images: decoded one at a time, in the asked channels, size and layout."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from quantcli.data import InputSpec, open_dataset
from quantcli.errors import DatasetError

F32 = np.dtype("float32")
NHWC = InputSpec("x", F32, ("n", "h", "w", 3))
NCHW = InputSpec("x", F32, ("n", 3, "h", "w"))
GRAY = InputSpec("x", F32, ("n", "h", "w", 1))


def failure(path, inputs=(NHWC,)):
    with pytest.raises(DatasetError) as caught:
        list(open_dataset(path, inputs))
    assert caught.value.hint
    return caught.value.message


def only(path, spec):
    (feed,) = open_dataset(path, [spec])
    return feed["x"]


def test_image_is_fed_as_rgb_in_nhwc_with_a_batch_axis(write_image, write_spec):
    pixels = write_image("a.png")
    array = only(write_spec("inputs: {x: {images: '*.png'}}"), NHWC)
    np.testing.assert_array_equal(array, pixels[None].astype(np.float32))
    assert array.dtype == F32


def test_layout_nchw_moves_the_channels(write_image, write_spec):
    pixels = write_image("a.png")
    array = only(write_spec("inputs: {x: {images: '*.png', layout: NCHW}}"), NCHW)
    np.testing.assert_array_equal(array, pixels.transpose(2, 0, 1)[None])
    assert array.flags.c_contiguous


def test_bgr_reverses_the_channels(write_image, write_spec):
    pixels = write_image("a.png")
    array = only(write_spec("inputs: {x: {images: '*.png', color: BGR}}"), NHWC)
    np.testing.assert_array_equal(array[0], pixels[..., ::-1])
    assert array.flags.c_contiguous


def test_gray_has_one_channel(write_image, write_spec):
    pixels = write_image("a.png")
    array = only(write_spec("inputs: {x: {images: '*.png', color: GRAY}}"), GRAY)
    np.testing.assert_array_equal(array[0, ..., 0], np.asarray(Image.fromarray(pixels).convert("L")))


def test_resize_is_height_width_and_bilinear(write_image, write_spec):
    pixels = write_image("a.png", 8, 8)
    array = only(write_spec("inputs: {x: {images: '*.png', resize: [5, 7]}}"), NHWC)
    expected = np.asarray(Image.fromarray(pixels).resize((7, 5), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(array[0], expected)


def test_mean_and_std_follow_the_order_of_the_channels(write_image, write_spec):
    pixels = write_image("a.png")
    text = "inputs: {x: {images: '*.png', color: BGR, mean: [1, 2, 3], std: [4, 5, 6], layout: NCHW}}"
    array = only(write_spec(text), NCHW)
    expected = (pixels[..., ::-1].astype(np.float32) - np.float32([1, 2, 3])) / np.float32([4, 5, 6])
    np.testing.assert_array_equal(array[0], expected.transpose(2, 0, 1))


def test_uint8_input_gets_the_pixels(write_image, write_spec):
    pixels = write_image("a.png")
    array = only(write_spec("inputs: {x: {images: '*.png'}}"), InputSpec("x", np.dtype("uint8"), ("n", 4, 6, 3)))
    np.testing.assert_array_equal(array[0], pixels)
    assert array.dtype == np.uint8


def test_image_is_a_batch_of_one_when_the_rank_is_unknown(write_image, write_spec):
    write_image("a.png")
    assert only(write_spec("inputs: {x: {images: '*.png'}}"), InputSpec("x", F32, None)).shape == (1, 4, 6, 3)


def test_the_first_images_are_those_whose_names_come_first(write_image, write_spec):
    first = write_image("calib/a.png", seed=1)
    write_image("calib/b.png", seed=2)
    (fed,) = open_dataset(write_spec("samples: 1\ninputs: {x: {images: calib/*.png}}"), [NHWC])
    np.testing.assert_array_equal(fed["x"][0], first)


def test_pattern_is_relative_to_the_spec(write_image, tmp_path, monkeypatch):
    write_image("images/a.png")
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs/calib.yaml").write_text("inputs: {x: {images: ../images/*.png}}")
    monkeypatch.chdir("/")
    assert len(list(open_dataset(tmp_path / "specs/calib.yaml", [NHWC]))) == 1


def test_images_may_differ_in_size_when_the_model_allows_it(write_image, write_spec):
    write_image("a.png", 4, 6)
    write_image("b.png", 7, 5)
    dataset = open_dataset(write_spec("inputs: {x: {images: '*.png'}}"), [NHWC])
    dataset.check()
    assert sorted(feed["x"].shape for feed in dataset) == [(1, 4, 6, 3), (1, 7, 5, 3)]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_any_8_bit_mode_becomes_rgb(tmp_path, write_spec, mode):
    suffix = "jpg" if mode in {"CMYK", "YCbCr"} else "png"
    Image.new("RGB", (3, 2), (255, 0, 0)).convert(mode).save(tmp_path / f"a.{suffix}")
    assert only(write_spec("inputs: {x: {images: 'a.*'}}"), NHWC).shape == (1, 2, 3, 3)


def test_palette_with_transparency_becomes_rgb(tmp_path, write_spec):
    image = Image.new("P", (3, 2), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "a.png", transparency=b"\x00\x80")
    assert only(write_spec("inputs: {x: {images: a.png}}"), NHWC)[0, 0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_deeper_images_are_refused(tmp_path, write_spec, dtype):
    Image.fromarray(np.zeros((2, 3), dtype)).save(tmp_path / "a.tiff")
    assert "16 or 32 bits per channel" in failure(write_spec("inputs: {x: {images: a.tiff}}"))
    with pytest.raises(DatasetError, match=r"a\.tiff: 16 or 32 bits per channel .*, expected 8"):
        open_dataset(write_spec("inputs: {x: {images: a.tiff}}"), [NHWC]).check()


@pytest.mark.parametrize(
    ("options", "shape", "words"),
    [
        ("", ("n", 5, 6, 3), ["shape [1, 4, 6, 3]", "expected [n, 5, 6, 3]: axis 1 is 4, fixed at 5"]),
        ("layout: NCHW", ("n", "h", "w", 3), ["shape [1, 3, 4, 6]", "axis 3 is 6, fixed at 3"]),
        ("color: GRAY", ("n", "h", "w", 3), ["shape [1, 4, 6, 1]", "axis 3 is 1, fixed at 3"]),
        ("resize: [2, 2]", ("n", 2, 3, 3), ["shape [1, 2, 2, 3]", "axis 2 is 2, fixed at 3"]),
        ("", ("n", 3), ["rank 3 with shape [4, 6, 3]", "expected rank 2 as [n, 3]"]),
        ("", (2, 4, 6, 3), ["shape [4, 6, 3] is one element of a batch", "fixed at 2"]),
    ],
)
def test_image_that_does_not_fit_is_found_by_check_and_by_reading(write_image, write_spec, options, shape, words):
    write_image("a.png")
    path = write_spec(f"inputs: {{x: {{images: '*.png', {options}}}}}")
    spec = InputSpec("x", F32, shape)
    message = failure(path, [spec])
    assert [word for word in words if word not in message] == []
    with pytest.raises(DatasetError) as caught:
        open_dataset(path, [spec]).check()
    assert caught.value.message == message


def test_file_that_is_no_image_is_refused(tmp_path, write_spec):
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(DatasetError, match=r"a\.png: cannot be read .*expected an image"):
        open_dataset(write_spec("inputs: {x: {images: a.png}}"), [NHWC]).check()


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "tiff", "webp"])
def test_truncated_image_is_refused(write_image, tmp_path, write_spec, suffix):
    write_image(f"a.{suffix}", 40, 40)
    content = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(content[: len(content) // 2])
    message = failure(write_spec(f"inputs: {{x: {{images: a.{suffix}}}}}"))
    assert f"a.{suffix}: cannot be read" in message
    assert "expected an image" in message


def test_check_finds_a_truncated_image(write_image, tmp_path, write_spec):
    write_image("a.png", 40, 40)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    with pytest.raises(DatasetError, match=r"a\.png: cannot be read"):
        open_dataset(write_spec("inputs: {x: {images: a.png}}"), [NHWC]).check()


def test_an_image_is_decoded_once(write_image, tmp_path, write_spec):
    write_image("a.png")
    dataset = open_dataset(write_spec("inputs: {x: {images: a.png}}"), [NHWC])
    (first,) = dataset
    (tmp_path / "a.png").unlink()
    (second,) = dataset
    np.testing.assert_array_equal(first["x"], second["x"])


@pytest.mark.parametrize("limit", [10, 30])
def test_decompression_bomb_is_refused(write_image, write_spec, monkeypatch, limit):
    write_image("a.png", 5, 8)  # 40 pixels: over the limit for a warning, or twice the limit for an error
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    message = failure(write_spec("inputs: {x: {images: a.png}}"))
    assert "decompression bomb" in message
    assert "expected an image" in message


def test_image_that_leaves_the_range_of_an_integer_input_is_refused(write_image, write_spec):
    write_image("a.png")
    message = failure(
        write_spec("inputs: {x: {images: a.png, mean: 128}}"), [InputSpec("x", np.dtype("uint8"), (1, 4, 6, 3))]
    )
    assert "expected 0 to 255 to fit uint8" in message


def test_images_and_arrays_are_fed_side_by_side(write_image, tmp_path, write_spec):
    for name in "abc":
        write_image(f"{name}.png")
    np.savez(tmp_path / "a.npz", y=np.arange(3, dtype=np.float32))
    path = write_spec("inputs: {x: {images: '*.png'}, y: {npz: a.npz}}")
    feeds = list(open_dataset(path, [NHWC, InputSpec("y", F32, ("n",))]))
    assert [feed["y"].tolist() for feed in feeds] == [[0], [1], [2]]


def test_numbers_of_images_and_array_elements_must_agree(write_image, tmp_path, write_spec):
    write_image("a.png")
    np.savez(tmp_path / "a.npz", y=np.arange(3, dtype=np.float32))
    path = write_spec("inputs: {x: {images: '*.png'}, y: {npz: a.npz}}")
    message = failure(path, [NHWC, InputSpec("y", F32, ("n",))])
    assert "input 'y' has 3 samples" in message
    assert "expected 1 as 'x' has" in message


def test_pillow_is_loaded_only_for_images_and_onnx_never():
    code = (
        "import sys, quantcli.data; print([n for n in ('PIL', 'onnx', 'onnxruntime', 'onnx_ir') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - ours
    assert done.stdout.strip() == "[]"
