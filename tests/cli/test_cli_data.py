"""quant data: what would be fed, and what is suspicious about it."""

from __future__ import annotations

import json

import models
import numpy as np
import onnx
import pytest
from PIL import Image

from quantcli import modes

SAMPLE = modes.sample_folder()
COLORS = 3


@pytest.fixture
def data(quant):
    return lambda *arguments: quant("data", *map(str, arguments))


def classifier():
    """Tells which channel is the brightest; its input has to be RGB of 0 to 1."""
    body = "a = Relu(x) m = GlobalAveragePool(a) y = Flatten(m)"
    return models.text(f"(float[n,3,8,8] x) => (float[n,3] y) {{ {body} }}")


@pytest.fixture
def colors(tmp_path):
    """Pictures of three colours in a folder for each, and the model."""
    rng = np.random.default_rng(0)
    for i in range(36):
        pixels = rng.integers(0, 100, (8, 8, COLORS), dtype=np.uint8)
        pixels[..., i % COLORS] += 120
        folder = tmp_path / "images" / str(i % COLORS)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    onnx.save(classifier(), tmp_path / "m.onnx")
    return tmp_path


def test_the_sample_is_shown(data):
    done = data(SAMPLE / "dataset.yaml", "--model", SAMPLE / "digits.onnx")
    assert (done.code, done.err) == (0, "")
    assert "dataset.yaml: 100 samples for digits.onnx" in done.out
    assert "image  float32  [1, 1, 8, 8]" in done.out


def test_the_model_is_not_needed(data):
    done = data(SAMPLE / "dataset.yaml", "--samples", "7")
    assert (done.code, done.files) == (0, [])
    assert "7 samples" in done.out
    assert "7 samples, fewer than 32" in done.out


def test_json_is_one_document(data, colors):
    done = data("images", "--preset", "unit", "--model", "m.onnx", "--json")
    document = done.document
    assert (done.code, document["samples"], document["model"]) == (0, 36, "m.onnx")
    assert document["classes"] == {"0": 12, "1": 12, "2": 12}
    (fed,) = document["inputs"]
    assert (fed["name"], fed["layout"], fed["shapes"], len(fed["channels"])) == ("x", "NCHW", [[[1, 3, 8, 8], 36]], 3)
    assert document["exercise"] == {"idle": [], "untaken": []}
    assert document["warnings"] == []


def test_the_digest_is_that_of_the_conversion(data, quant, colors):
    digest = data("images", "--preset", "unit", "--model", "m.onnx", "--json").document["digest"]
    report = quant("convert", "m.onnx", "--mode", "full-integer", "--representative-dataset", "images",
                   "--image-preset", "unit", "-o", "q.onnx", "--json").document  # fmt: skip
    assert json.loads((colors / "q.encodings.json").read_text())["quantcli"]["data_sha256"] == digest
    assert report["verification"]["top1"]["float_top1"] == 1.0


def test_a_preset_of_images_may_stand_beside_one_of_passes(quant, colors):
    given = (
        "convert",
        "m.onnx",
        "--mode",
        "full-integer",
        "--representative-dataset",
        "images",
        "--quiet",
        "-o",
        "q.onnx",
    )
    made = []
    for presets in (
        ("--preset", "unit"),
        ("--image-preset", "unit"),
        ("--preset", "fast", "--preset", "unit"),
        ("--preset", "fast", "--image-preset", "unit"),
    ):
        done = quant(*given, *presets)
        assert done.code == 0, done.err
        made.append((colors / "q.onnx").read_bytes())
    assert made[0] == made[1]
    assert made[2] == made[3]


@pytest.mark.parametrize("presets", [("unit", "signed"), ("fast", "accurate")])
def test_two_presets_of_one_kind_are_refused(quant, presets):
    done = quant("convert", *(word for name in presets for word in ("--preset", name)))
    assert done.code == 2
    assert f"presets {presets[0]} and {presets[1]} both say" in done.err


def test_a_preset_of_images_needs_a_dataset(quant):
    done = quant("convert", "--preset", "unit", "--random-data", "3")
    assert (done.code, "--image-preset unit means nothing" in done.err) == (2, True)


def test_a_contact_sheet_is_written(data, colors):
    done = data("images", "--preset", "unit", "--model", "m.onnx", "-o", "sheet.png")
    assert done.code == 0
    with Image.open(colors / "sheet.png") as sheet:
        assert (sheet.format, sheet.mode) == ("PNG", "RGB")
    assert "sheet.png" in done.out


def test_swapped_channels_are_told_by_labels(data, colors):
    (colors / "bgr.yaml").write_text(
        "inputs: {x: {images: 'images/*/*.png', color: BGR, preset: unit}}\nlabels: {npz: labels.npz}"
    )
    names = sorted(p.relative_to(colors).as_posix() for p in (colors / "images").rglob("*.png"))
    np.savez(colors / "labels.npz", labels=[int(name.split("/")[1]) for name in names])
    done = data("bgr.yaml", "--model", "m.onnx")
    assert "12 of 36 samples are classified rightly, 36 with red and blue exchanged" in done.out


def test_folders_that_are_no_classes_are_left_alone(data, colors):
    (colors / "images/2").rename(colors / "images/9")
    done = data("images", "--preset", "unit", "--model", "m.onnx")
    assert done.code == 0
    assert "folders are not taken for classes: images has label 9, expected 0 to 2" in done.out
    assert "classes\n" not in done.out


def test_idle_channels_are_told(data, colors):
    body = "b = Add(x, o) a = Relu(b) m = GlobalAveragePool(a) y = Flatten(m)"
    offset = np.float32([0, -9, 0]).reshape(1, 3, 1, 1)
    onnx.save(models.text(f"(float[n,3,8,8] x) => (float[n,3] y) {{ {body} }}", o=offset), colors / "m.onnx")
    assert "Relu 'Relu_1': 1 of 3 channels always 0" in data("images", "--preset", "unit", "--model", "m.onnx").out


def write_all_kinds(folder):
    array = np.arange(40 * 4, dtype=np.float32).reshape(40, 1, 4)
    np.savez(folder / "a.npz", x=array)
    (folder / "feeds").mkdir()
    (folder / "sets").mkdir()
    lines = []
    for i, row in enumerate(array):
        np.savez(folder / f"feeds/{i}.npz", x=row)
        np.save(folder / f"{i}.npy", row)
        (folder / f"sets/test_data_set_{i}").mkdir()
        onnx.save_tensor(onnx.numpy_helper.from_array(row, "x"), folder / f"sets/test_data_set_{i}/input_0.pb")
        row.tofile(folder / f"{i}.raw")
        lines.append(f"x:={i}.raw")
    (folder / "list.txt").write_text("\n".join(lines))
    (folder / "t.csv").write_text("x\n" + "\n".join(f"{i}.npy" for i in range(40)))
    (folder / "t.jsonl").write_text("\n".join(json.dumps({"x": row[0].tolist()}) for row in array))
    (folder / "gen.py").write_text(
        "import numpy as np\ndef samples():\n"
        "    for i in range(40):\n        yield {'x': np.arange(4 * i, 4 * i + 4, dtype=np.float32)[None]}\n"
    )
    (folder / "spec.yaml").write_text("inputs: {x: {npz: a.npz}}")
    (folder / "other.yaml").write_text("feeds: feeds/*.npz")
    (folder / "third.yaml").write_text("source: list.txt")


KINDS = (
    "a.npz",
    "feeds",
    "sets",
    "list.txt",
    "t.csv",
    "t.jsonl",
    "gen.py:samples",
    "spec.yaml",
    "other.yaml",
    "third.yaml",
)


def test_every_kind_of_source_feeds_the_same(data, quant, tmp_path):
    """Through --representative-dataset, too: the converted models are the same bytes."""
    write_all_kinds(tmp_path)
    body = "m = MatMul(x, w) y = Relu(m)"
    onnx.save(models.text(f"(float[n,4] x) => (float[n,3] y) {{ {body} }}", w=models.weight(4, 3)), tmp_path / "m.onnx")
    digests, made = set(), set()
    for kind in KINDS:
        digests.add(data(kind, "--model", "m.onnx", "--json").document["digest"])
        done = quant("convert", "m.onnx", "--representative-dataset", kind, "-o", "q.onnx", "--no-cache", "--quiet")
        assert done.code == 0, done.err
        made.add((tmp_path / "q.onnx").read_bytes())
    assert (len(digests), len(made)) == (1, 1)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in {"list.txt", "third.yaml"}])
def test_every_kind_of_source_is_shown_without_a_model(data, tmp_path, kind):
    write_all_kinds(tmp_path)
    done = data(kind, "--json")
    assert done.code == 0, done.err
    (fed,) = done.document["inputs"]
    assert (fed["name"], done.document["samples"]) == ("x", 40)
    assert (fed["values"]["minimum"], fed["values"]["maximum"]) == (0, 159)


def test_images_are_shown_without_a_model(data, colors):
    (fed,) = data("images", "--json").document["inputs"]
    assert (fed["dtype"], fed["layout"], fed["name"]) == ("uint8", "NHWC", "image")
    (fed,) = data("images", "--preset", "imagenet-torch", "--json").document["inputs"]
    assert (fed["dtype"], fed["shapes"]) == ("float32", [[[1, 224, 224, 3], 36]])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nowhere.yaml",), 3, "nowhere.yaml: cannot be read"),
        (("nowhere.npz",), 3, "cannot be read"),
        (("list.txt",), 3, "raw files do not say their shapes, expected a model"),
        (("a.npz", "-o", "sheet.png"), 2, "no input looks like images of 1 or 3 channels; fed is 'x' [4]"),
        (("a.npz", "-o", "a.npz"), 2, "a.npz"),
        (("a.npz", "--preset", "unit"), 3, "preset 'unit', expected none"),
        (("a.npz", "--preset", "imagenet"), 2, "is not one of"),
        (("a.npz", "--model", "a.npz"), 3, "a.npz"),
        ((), 2, "Missing argument 'SPEC'"),
    ],
)
def test_what_is_wrong_is_told(data, tmp_path, arguments, code, message):
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 4), np.float32))
    (tmp_path / "list.txt").write_text("a.raw")
    before = (tmp_path / "a.npz").read_bytes()
    done = data(*arguments)
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert (tmp_path / "a.npz").read_bytes() == before


def test_several_models_are_told(data, tmp_path):
    (tmp_path / "s.yaml").write_text("signatures: {a: {model: m.onnx}}")
    assert (data("s.yaml").code, "several models" in data("s.yaml").err) == (2, True)
