"""Models are read strictly, results written all or not at all, and every mistake is said in terms of the file."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import text, weight
from onnx import TensorProto, helper

from quantcli import files, graph, runtime
from quantcli.errors import ModelError, OutputError
from quantcli.serialization import Content

X = weight(1, 3)
RELU = text("(float[1,3] x) => (float[1,3] y) { y = Relu(x) }")
ADD = text("(float[1,3] x) => (float[1,3] y) { y = Add(x, k) }", k=X)


def written(folder, proto, name="m.onnx"):
    path = folder / name
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    return path


def apart(folder, proto=ADD, **external):
    """Save a model with its constants in ``m.bin``; ``external`` overwrites what the model says of that file."""
    path = folder / "m.onnx"
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    onnx.save(copy, path, save_as_external_data=True, location="m.bin", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = str(external.get(entry.key, entry.value))
    return written(folder, model)


def failure(path):
    with pytest.raises(ModelError) as caught:
        files.load_model(path)
    assert str(path) in caught.value.message
    return caught.value.message


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_a_model_is_read(tmp_path):
    assert [n.op_type for n in files.load_model(written(tmp_path, RELU)).graph] == ["Relu"]


def test_every_node_of_a_read_model_has_a_name(tmp_path):
    assert [n.name for n in files.load_model(written(tmp_path, RELU)).graph] == ["Relu_0"]


def test_nodes_in_any_order_are_sorted(tmp_path):
    proto = text("(float[1,3] x) => (float[1,3] y) { a = Relu(x) y = Neg(a) }")
    nodes = list(reversed(proto.graph.node))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    assert [n.op_type for n in files.load_model(written(tmp_path, proto)).graph] == ["Relu", "Neg"]


def test_constants_beside_the_file_are_read(tmp_path):
    model = files.load_model(apart(tmp_path))
    assert np.array_equal(graph.constant(model.graph.initializers["k"]), X)


def test_constants_beside_the_file_are_found_from_any_folder(tmp_path, monkeypatch):
    apart(tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    model = files.load_model(Path(tmp_path.name) / "m.onnx")
    assert np.array_equal(graph.constant(model.graph.initializers["k"]), X)


def test_a_missing_file_is_a_model_error(tmp_path):
    assert failure(tmp_path / "m.onnx").endswith("does not exist; expected an .onnx file")


def test_a_folder_is_a_model_error(tmp_path):
    assert failure(tmp_path).endswith("is a folder; expected an .onnx file")


def test_an_empty_file_is_a_model_error(tmp_path):
    assert "not an ONNX model" in failure(written(tmp_path, b""))


@pytest.mark.parametrize(
    "content", ["hello", "<html><body>404: Not Found</body></html>\n", "ir_version: 8\ngraph {}\n"]
)
def test_text_is_a_model_error(tmp_path, content):
    assert "ONNX model" in failure(written(tmp_path, content.encode() * 9))


def test_a_pointer_of_git_lfs_is_a_model_error(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
    assert "ONNX model" in failure(written(tmp_path, pointer))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_truncated_file_is_a_model_error(tmp_path, share):
    whole = ADD.SerializeToString()
    assert "ONNX model" in failure(written(tmp_path, whole[: int(len(whole) * share)]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=400))
def test_random_bytes_are_a_model_error(tmp_path, content):
    failure(written(tmp_path, content))


@pytest.mark.parametrize(
    "proto",
    [
        onnx.ModelProto(),
        onnx.ModelProto(ir_version=8),
        helper.make_tensor("k", TensorProto.FLOAT, [1], [1.0]),
        RELU.graph,
    ],
    ids=["nothing", "no-graph", "tensor", "graph"],
)
def test_another_message_of_onnx_is_a_model_error(tmp_path, proto):
    assert "ONNX model" in failure(written(tmp_path, proto))


def test_a_cycle_is_a_model_error(tmp_path):
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    value = helper.make_tensor_value_info
    proto = helper.make_model(helper.make_graph(nodes, "g", [value("x", 1, [1])], [value("b", 1, [1])]))
    assert failure(written(tmp_path, proto)).endswith("its nodes form a cycle")


# ---- constants beside the file ---------------------------------------------------------------------------------------


def test_a_missing_data_file_is_a_model_error(tmp_path):
    path = apart(tmp_path)
    (tmp_path / "m.bin").unlink()
    assert "external data file 'm.bin' of 'k' is missing" in failure(path)


def test_a_folder_in_place_of_the_data_file_is_a_model_error(tmp_path):
    path = apart(tmp_path)
    (tmp_path / "m.bin").unlink()
    (tmp_path / "m.bin").mkdir()
    assert "external data file 'm.bin' of 'k' is missing" in failure(path)


@pytest.mark.parametrize("absolute", [True, False])
def test_data_outside_of_the_folder_is_a_model_error(tmp_path, absolute):
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "m.bin").write_bytes(X.tobytes())
    location = tmp_path / "m.bin" if absolute else "../m.bin"
    assert f"external data of 'k' lies outside the model's folder: {location}" in failure(
        apart(inner, location=location)
    )


@pytest.mark.parametrize("size", [0, 11])
def test_a_data_file_that_is_too_short_is_a_model_error(tmp_path, size):
    path = apart(tmp_path)
    (tmp_path / "m.bin").write_bytes(X.tobytes()[:size])
    assert f"ends before 'k': {size} bytes, expected at least 12" in failure(path)


def test_data_that_begins_too_late_is_a_model_error(tmp_path):
    assert "ends before 'k': 12 bytes, expected at least 14" in failure(apart(tmp_path, offset=2))


def test_missing_data_of_a_subgraph_is_a_model_error(tmp_path):
    proto = text("""(float[1,3] x, bool c) => (float[1,3] y) { y = If (c) <
      then_branch = t () => (float[1,3] p) <float[1,3] k = {1, 2, 3}> { p = Add(x, k) },
      else_branch = e () => (float[1,3] q) { q = Neg(x) }> }""")
    (constant,) = [k for a in proto.graph.node[0].attribute for k in a.g.initializer]
    constant.ClearField("float_data")
    constant.data_location = TensorProto.EXTERNAL
    constant.external_data.add(key="location", value="m.bin")
    assert "external data file 'm.bin' of 'k' is missing" in failure(written(tmp_path, proto))


# ---- models that are quantized already -------------------------------------------------------------------------------

QUANTIZED = "(float[1,3] x) => (uint8[1,3] y) { y = QuantizeLinear(x, s, z) }"


def test_a_quantized_model_is_a_model_error(tmp_path):
    proto = text(QUANTIZED, s=np.float32(1), z=np.uint8(0))
    assert failure(written(tmp_path, proto)).endswith("already quantized: node 'QuantizeLinear_0' is a QuantizeLinear")


@pytest.mark.parametrize(
    ("op_type", "domain"),
    [
        ("DequantizeLinear", ""),
        ("DynamicQuantizeLinear", ""),
        ("QLinearConv", ""),
        ("QLinearMatMul", ""),
        ("ConvInteger", ""),
        ("MatMulInteger", ""),
        ("QLinearAdd", "com.microsoft"),
        ("QGemm", "com.microsoft"),
        ("QAttention", "com.microsoft"),
        ("MatMulNBits", "com.microsoft"),
    ],
)
def test_every_integer_operator_is_known(tmp_path, op_type, domain):
    value = helper.make_tensor_value_info
    node = helper.make_node(op_type, ["x"], ["y"], name="n", domain=domain)
    made = helper.make_graph([node], "g", [value("x", 1, [1])], [value("y", 1, [1])])
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    proto = helper.make_model(made, opset_imports=imports, ir_version=10)
    assert failure(written(tmp_path, proto)).endswith(f"already quantized: node 'n' is a {op_type}")


def test_a_quantized_subgraph_is_a_model_error(tmp_path):
    proto = text(
        """(float[1,3] x, bool c) => (float[1,3] y) { y = If (c) <
          then_branch = t () => (float[1,3] p) { i = QuantizeLinear(x, s, z) p = DequantizeLinear(i, s, z) },
          else_branch = e () => (float[1,3] q) { q = Neg(x) }> }""",
        s=np.float32(1),
        z=np.uint8(0),
    )
    assert "already quantized" in failure(written(tmp_path, proto))


def test_a_quantized_function_is_a_model_error(tmp_path):
    proto = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
      g (float[1,3] x, float s, uint8 z) => (float[1,3] y) { y = own.rounded(x, s, z) }
      <domain: "own", opset_import: ["" : 21]>
      rounded (x, s, z) => (y) { i = QuantizeLinear(x, s, z) y = DequantizeLinear(i, s, z) }""")
    assert "already quantized" in failure(written(tmp_path, proto))


def test_a_float_model_is_not_quantized(tmp_path):
    files.check_float(files.load_model(written(tmp_path, RELU)), "m.onnx")


# ---- where to write --------------------------------------------------------------------------------------------------


def refusal(path, *inputs):
    with pytest.raises(OutputError) as caught:
        files.check_output(path, inputs)
    assert caught.value.hint
    return caught.value.message


def test_a_new_file_in_a_folder_can_be_written(tmp_path):
    files.check_output(tmp_path / "out.onnx", (tmp_path / "in.onnx",))


def test_an_old_output_can_be_written_again(tmp_path):
    source, target = written(tmp_path, RELU, "in.onnx"), written(tmp_path, RELU, "out.onnx")
    files.check_output(target, (source,))


def test_a_missing_folder_is_refused(tmp_path):
    assert "nowhere does not exist" in refusal(tmp_path / "nowhere" / "out.onnx")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    assert "does not exist" in refusal(written(tmp_path, RELU) / "out.onnx")


def test_a_folder_in_place_of_the_output_is_refused(tmp_path):
    assert "is a folder" in refusal(tmp_path)


def test_the_input_is_refused_as_output(tmp_path):
    path = written(tmp_path, RELU)
    assert "the output is the input itself" in refusal(path, tmp_path / "other.onnx", path)


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_a_link_to_the_input_is_refused_as_output(tmp_path, link):
    path = written(tmp_path, RELU)
    link(path, tmp_path / "out.onnx")
    assert "the output is the input itself" in refusal(tmp_path / "out.onnx", path)


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not (Path(path) == tmp_path and mode == os.W_OK))
    assert "is not writable" in refusal(tmp_path / "out.onnx")


# ---- writing ---------------------------------------------------------------------------------------------------------

EMPTY = Content(())
CONTENTS = {"a.onnx": b"model", "a.json": b"{}", "b.json": b""}


def model_bytes(model):
    (content,) = files.model_contents(model, Path("m.onnx")).values()
    return b"".join(part if isinstance(part, bytes) else part.tobytes() for part in content.parts)


def placed(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def contents(folder):
    return {folder / name: Content((data,)) for name, data in CONTENTS.items()}


def failing(monkeypatch, method, error, *, after):
    """Let a method of Path raise once, at its call number ``after``."""
    real, calls = getattr(Path, method), []

    def call(self, *arguments):
        calls.append(self)
        if len(calls) == after + 1:
            raise error
        return real(self, *arguments)

    monkeypatch.setattr(Path, method, call)


FULL = OSError(errno.ENOSPC, "No space left on device")
each_failure = pytest.mark.parametrize("method", ["chmod", "replace"])
each_moment = pytest.mark.parametrize("after", [0, 1, 2])


def test_all_files_are_written(tmp_path):
    files.write_all(contents(tmp_path))
    assert placed(tmp_path) == CONTENTS


def test_old_files_are_replaced(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"old, and longer")
    files.write_all(contents(tmp_path))
    assert placed(tmp_path) == CONTENTS


def test_nothing_to_write_is_no_error():
    files.write_all({})


def test_files_have_the_permissions_of_other_new_files(tmp_path):
    (tmp_path / "plain").touch()
    files.write_all(contents(tmp_path))
    assert {p.stat().st_mode for p in tmp_path.iterdir()} == {(tmp_path / "plain").stat().st_mode}


@each_moment
@each_failure
def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch, method, after):
    failing(monkeypatch, method, FULL, after=after)
    with pytest.raises(OutputError):
        files.write_all(contents(tmp_path))
    assert placed(tmp_path) == {}


@each_moment
@each_failure
def test_an_interrupt_leaves_nothing_behind(tmp_path, monkeypatch, method, after):
    failing(monkeypatch, method, KeyboardInterrupt(), after=after)
    with pytest.raises(KeyboardInterrupt):
        files.write_all(contents(tmp_path))
    assert placed(tmp_path) == {}


@each_moment
@each_failure
def test_a_failure_leaves_old_files_as_they_were(tmp_path, monkeypatch, method, after):
    old = {name: b"old " + data for name, data in CONTENTS.items()}
    for name, data in old.items():
        (tmp_path / name).write_bytes(data)
    failing(monkeypatch, method, FULL, after=after)
    with pytest.raises(OutputError):
        files.write_all(contents(tmp_path))
    assert placed(tmp_path) == old


def test_a_failure_says_why(tmp_path, monkeypatch):
    failing(monkeypatch, "replace", FULL, after=1)
    with pytest.raises(OutputError, match=r"cannot write .*: No space left on device"):
        files.write_all(contents(tmp_path))


def test_a_folder_that_went_away_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        files.write_all({tmp_path / "a.onnx": EMPTY, tmp_path / "gone" / "b.json": EMPTY})
    assert placed(tmp_path) == {}


def test_a_temporary_model_is_written_into_a_new_folder(tmp_path):
    model = files.load_model(written(tmp_path, RELU))
    files.save_temporary(model, tmp_path / "deep" / "er" / "01.onnx")
    assert onnx.load(tmp_path / "deep" / "er" / "01.onnx").graph.node[0].op_type == "Relu"


def test_a_temporary_model_that_cannot_be_written_is_an_output_error(tmp_path):
    model = files.load_model(written(tmp_path, RELU))
    with pytest.raises(OutputError, match="cannot write"):
        files.save_temporary(model, tmp_path / "m.onnx" / "01.onnx")


# ---- bytes -----------------------------------------------------------------------------------------------------------


def test_a_digest_is_that_of_the_content(tmp_path):
    content = bytes(range(256)) * 5000
    assert files.sha256(written(tmp_path, content)) == hashlib.sha256(content).hexdigest()


def test_the_same_model_gives_the_same_bytes(tmp_path):
    path = written(tmp_path, ADD)
    assert model_bytes(files.load_model(path)) == model_bytes(files.load_model(path))


def test_a_model_gives_the_same_bytes_again_after_it_ran(tmp_path):
    model = files.load_model(apart(tmp_path))
    before = model_bytes(model)
    runtime.load(model).run({"x": X})
    assert model_bytes(model) == before


def test_the_bytes_of_a_model_are_the_model(tmp_path):
    model = files.load_model(written(tmp_path, ADD))
    again = files.load_model(written(tmp_path, model_bytes(model), "again.onnx"))
    assert runtime.load(again).run({"x": X})["y"].tolist() == (X + X).tolist()


def test_the_bytes_of_a_model_hold_its_constants(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    data = model_bytes(files.load_model(apart(tmp_path)))
    again = files.load_model(written(elsewhere, data))
    assert runtime.load(again).run({"x": X})["y"].tolist() == (X + X).tolist()
