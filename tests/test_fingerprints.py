"""A fingerprint is that of the content: of all that a session computes with, and of nothing else."""

from __future__ import annotations

import shutil

import models
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quantcli import custom_ops, files, runtime
from quantcli.fingerprints import fingerprint

SOURCE = "(float[N, 3] x) => (float[N, 3] y) { a = MatMul(x, w)  y = Relu(a) }"


def written(folder, name="model.onnx", *, external=False, **changes):
    model = models.text(SOURCE, **{"w": models.weight(3, 3), **changes})
    options = {"save_as_external_data": True, "location": f"{name}.weights", "size_threshold": 0} if external else {}
    onnx.save(model, folder / name, **options)
    return folder / name


def of(path):
    return fingerprint(files.load_model(path))


def test_the_place_and_name_of_a_file_do_not_matter(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    first = written(tmp_path)
    second = shutil.copy(first, tmp_path / "elsewhere" / "other.onnx")
    assert of(first) == of(second)


def test_where_the_weights_lie_does_not_matter(tmp_path):
    assert of(written(tmp_path)) == of(written(tmp_path, "apart.onnx", external=True))


@pytest.mark.parametrize("external", [False, True])
def test_one_weight_matters(tmp_path, external):
    changed = models.weight(3, 3).copy()
    changed[2, 2] = np.nextafter(changed[2, 2], np.float32(9))
    before = of(written(tmp_path, external=external))
    assert of(written(tmp_path, "changed.onnx", external=external, w=changed)) != before


def test_a_large_weight_matters(tmp_path):
    large = np.zeros((3, 1 << 19), np.float32)
    source = "(float[N, 3] x) => (float[N, M] y) { y = MatMul(x, w) }"
    found = set()
    for value in (0, 1):
        large[-1, -1] = value
        onnx.save(models.text(source, w=large), tmp_path / "large.onnx")
        found.add(of(tmp_path / "large.onnx"))
    assert len(found) == 2


def test_a_copy_has_the_same(tmp_path):
    model = files.load_model(written(tmp_path))
    assert fingerprint(model.clone()) == fingerprint(model)


def test_what_is_known_of_types_and_shapes_does_not_matter(tmp_path):
    model = files.load_model(written(tmp_path))
    before = fingerprint(model)
    runtime.annotate(model)
    for node in model.graph:
        node.outputs[0].shape = ir.Shape([7, 3])
    assert fingerprint(model) == before
    assert model.graph.outputs[0].shape == ir.Shape([7, 3])  # the model itself is left alone


def with_constant(name="", value=1.0):
    model = models.text("(float[2, 3] x) => (float[2, 3] y) { c = Constant<value_floats = [1.0]>() y = Add(x, c) }")
    tensor = onnx.numpy_helper.from_array(np.full(3, value, np.float32), name)
    model.graph.node[0].attribute[0].CopyFrom(onnx.helper.make_attribute("value", tensor))
    return model


def test_the_name_of_a_tensor_in_an_attribute_does_not_matter():
    made = [ir.from_proto(with_constant(name)) for name in ("", "c")]
    before = [serialized(model) for model in made]
    assert fingerprint(made[0]) == fingerprint(made[1])
    assert [serialized(model) for model in made] == before  # the models themselves are left alone


def test_the_value_of_a_tensor_in_an_attribute_matters():
    assert len({fingerprint(ir.from_proto(with_constant(value=v))) for v in (1.0, 2.0)}) == 2


def test_preparing_a_model_leaves_its_fingerprint(bench):
    model = with_constant()
    model.graph.node.insert(0, onnx.helper.make_node("MatMul", ["x", "w"], ["a"]))
    model.graph.node[2].input[0] = "a"
    model.graph.initializer.append(models.initializer("w", models.weight(3, 3)))
    state = bench.convert(model, "full-integer").result.state
    assert fingerprint(state.original) == of(bench.folder / "float.onnx")


def serialized(model):
    return ir.to_proto(model).SerializeToString(deterministic=True)


def test_the_code_of_custom_operators_matters(tmp_path):
    found = set()
    for code in (b"one", b"two"):
        (tmp_path / "ops.so").write_bytes(code)
        model = files.load_model(written(tmp_path))
        custom_ops.attach(model, [tmp_path / "ops.so"])
        found.add(fingerprint(model))
    assert len(found) == 2
