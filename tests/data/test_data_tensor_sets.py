"""onnx's test_data_set_* folders, and the TensorProto files in them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantcli.data import InputSpec, open_dataset
from quantcli.data.tensor_proto import read_tensor
from quantcli.errors import DatasetError

A = InputSpec("a", np.dtype("float32"), ("n", 2))
B = InputSpec("b", np.dtype("int64"), (1,))


def write(folder, *arrays, names=("a", "b")):
    folder.mkdir(parents=True)
    for i, array in enumerate(arrays):
        onnx.save_tensor(numpy_helper.from_array(array, names[i]), folder / f"input_{i}.pb")
        onnx.save_tensor(numpy_helper.from_array(array, "out"), folder / f"output_{i}.pb")


@pytest.fixture
def model_folder(tmp_path):
    for i in (0, 1, 2, 10):
        write(tmp_path / f"test_data_set_{i}", np.full((1, 2), i, np.float32), np.array([i]))
    (tmp_path / "model.onnx").write_bytes(b"")
    return tmp_path


def failure(path, inputs=(A, B)):
    with pytest.raises(DatasetError) as caught:
        open_dataset(path, inputs).check()
    return caught.value.message


def test_each_set_is_a_sample(model_folder):
    fed = sorted((f["a"].tolist(), f["b"].tolist()) for f in open_dataset(model_folder, [A, B]))
    assert fed == [([[i, i]], [i]) for i in (0, 1, 2, 10)]


def test_the_first_sets_are_those_with_the_lowest_numbers(model_folder):
    assert sorted(f["b"].item() for f in open_dataset(model_folder, [A, B], samples=3)) == [0, 1, 2]


def test_one_set_may_be_given(model_folder):
    (feed,) = open_dataset(model_folder / "test_data_set_2", [A, B])
    assert feed["b"].item() == 2


def test_names_count_where_they_are_those_of_the_inputs(tmp_path):
    write(tmp_path / "test_data_set_0", np.array([5]), np.ones((1, 2), np.float32), names=("b", "a"))
    (feed,) = open_dataset(tmp_path, [A, B])
    assert (feed["a"].tolist(), feed["b"].tolist()) == ([[1, 1]], [5])


def test_order_counts_where_names_are_others(tmp_path):
    write(tmp_path / "test_data_set_0", np.ones((1, 2), np.float32), np.array([5]), names=("", ""))
    (feed,) = open_dataset(tmp_path, [A, B])
    assert feed["b"].tolist() == [5]


def test_more_than_nine_inputs_are_in_the_order_of_their_numbers(tmp_path):
    specs = [InputSpec(f"i{k}", np.dtype("int64"), (1,)) for k in range(12)]
    write(tmp_path / "test_data_set_0", *[np.array([k]) for k in range(12)], names=[""] * 12)
    (feed,) = open_dataset(tmp_path, specs)
    assert [feed[f"i{k}"].item() for k in range(12)] == list(range(12))


def test_a_missing_file_is_told(model_folder):
    (model_folder / "test_data_set_1/input_1.pb").unlink()
    assert "test_data_set_1: 1 input_N.pb files, expected 2, one for each of 'a', 'b'" in failure(model_folder)


@pytest.mark.parametrize(
    "dtype",
    ["float32", "float64", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"],
)
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "fields"])
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 4)], ids=str)
def test_a_tensor_is_read_as_onnx_reads_it(tmp_path, dtype, raw, shape):
    rng = np.random.default_rng(0)
    array = (rng.standard_normal(shape) * 100).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    data = array.tobytes() if raw else array.ravel()
    tensor = helper.make_tensor("t", kind, shape, data, raw=raw)
    onnx.save_tensor(tensor, tmp_path / "t.pb")
    name, found = read_tensor(tmp_path / "t.pb")
    expected = numpy_helper.to_array(onnx.load_tensor(tmp_path / "t.pb"))
    assert (name, found.dtype, found.shape) == ("t", expected.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "fields"])
def test_bfloat16_becomes_float32(tmp_path, raw):
    values = [1.0, -2.5, 3e38]
    bits = (np.array(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    tensor = TensorProto(data_type=TensorProto.BFLOAT16, dims=[3])
    if raw:
        tensor.raw_data = bits.tobytes()
    else:
        tensor.int32_data.extend(bits.tolist())
    onnx.save_tensor(tensor, tmp_path / "t.pb")
    np.testing.assert_array_equal(read_tensor(tmp_path / "t.pb")[1], (bits.astype(np.uint32) << 16).view(np.float32))


def test_text_is_read(tmp_path):
    onnx.save_tensor(helper.make_tensor("t", TensorProto.STRING, [2], [b"a", "grün".encode()]), tmp_path / "t.pb")
    assert read_tensor(tmp_path / "t.pb")[1].tolist() == ["a", "grün"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no element type"),
        (b"\xff" * 20, "cannot be read"),
        (b"\x10\x01\x08\x05", "0 values for shape \\[5\\]"),
        (b"\x10\x0e\x08\x01", "element type 14"),
        (b"\x10\x01\x4a\x7f", "cut short"),
        (b"\x10\x01\x70\x01", "its values lie in another file"),
        (b"not a tensor at all", "cannot be read"),
    ],
)
def test_what_is_no_tensor_is_refused(tmp_path, content, said):
    (tmp_path / "t.pb").write_bytes(content)
    with pytest.raises(DatasetError, match=f"t.pb: cannot be read .*{said}" if said != "cannot be read" else said):
        read_tensor(tmp_path / "t.pb")
