"""Arrays in npz files: streamed, never unpickled, and checked against the input."""

from __future__ import annotations

import gc
import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from quantcli.data import InputSpec, open_dataset
from quantcli.errors import DatasetError

X = InputSpec("x", np.dtype("float32"), ("n", 3))


def failure(path, inputs=(X,)):
    with pytest.raises(DatasetError) as caught:
        list(open_dataset(path, inputs))
    assert caught.value.hint
    return caught.value.message


def values(dataset, name="x"):
    """What is fed, by value: the order is that of the contents."""
    return sorted((feed[name] for feed in dataset), key=lambda array: array.ravel().tolist())


def save(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


def ramp(*shape, dtype=np.float32):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_samples_are_the_elements_of_axis_0_with_a_batch_axis(tmp_path, write, order):
    stored = np.asarray(ramp(5, 3), order=order)
    write(tmp_path / "a.npz", x=stored)
    np.testing.assert_array_equal(np.concatenate(values(open_dataset(tmp_path / "a.npz", [X]))), stored)


def test_sample_of_the_inputs_rank_gets_no_batch_axis(tmp_path):
    path = save(tmp_path / "a.npz", x=ramp(5, 2, 3))
    assert {array.shape for array in values(open_dataset(path, [X]))} == {(2, 3)}


def test_number_is_a_sample_of_a_scalar_input(tmp_path, floats):
    path = save(tmp_path / "a.npz", x=ramp(2))
    assert [array.shape for array in values(open_dataset(path, [floats()]))] == [(), ()]


def test_sample_is_fed_as_it_is_when_the_rank_is_unknown(tmp_path):
    path = save(tmp_path / "a.npz", x=ramp(2, 7))
    assert {array.shape for array in values(open_dataset(path, [InputSpec("x", np.dtype("float32"), None)]))} == {(7,)}


def test_big_endian_array_is_fed_in_native_order(tmp_path):
    path = save(tmp_path / "a.npz", x=ramp(2, 3).astype(">f4"))
    assert {array.dtype for array in values(open_dataset(path, [X]))} == {np.dtype("=f4")}


def test_samples_may_be_empty(tmp_path, floats):
    path = save(tmp_path / "a.npz", x=np.zeros((2, 1, 0, 4), np.float32))
    assert {array.shape for array in values(open_dataset(path, [floats(1, "past", 4)]))} == {(1, 0, 4)}


def test_samples_are_writable(tmp_path):
    assert all(array.flags.writeable for array in values(open_dataset(save(tmp_path / "a.npz", x=ramp(2, 3)), [X])))


def test_several_inputs_are_fed_side_by_side(tmp_path, floats):
    path = save(tmp_path / "a.npz", x=ramp(4, 3), y=ramp(4, 2))
    feeds = list(open_dataset(path, [X, floats("n", 2, name="y")]))
    np.testing.assert_array_equal(sorted(feed["y"][0].tolist() for feed in feeds), ramp(4, 2))
    assert all(feed["x"][0, 0] / 3 == feed["y"][0, 0] / 2 for feed in feeds)
    assert list(feeds[0]) == ["x", "y"]


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_peak_memory_does_not_grow_with_the_number_of_samples(tmp_path, floats, write):
    def peak(count):
        write(tmp_path / "a.npz", x=np.random.default_rng(0).random((count, 64, 64), np.float32))
        (tmp_path / "a.yaml").write_text("inputs: {x: {npz: a.npz, scale: 2, mean: 1}}")
        dataset = open_dataset(tmp_path / "a.yaml", [floats("n", 64, 64)])
        tracemalloc.start()
        for part in (dataset, dataset.take(count // 5)):
            for _ in part:
                pass
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    peak(10)  # what is imported and cached once
    assert peak(1000) - peak(10) < 990 * 256  # bytes: a note of where each sample is, and its hash; it has 16 KiB


def test_iteration_that_stops_early_closes_its_files(tmp_path, floats):
    bad = ramp(5, 2)
    bad[2] = np.nan
    path = save(tmp_path / "a.npz", x=ramp(5, 3), y=bad)
    dataset = open_dataset(path, [X, floats("n", 2, name="y")])
    with pytest.raises(DatasetError):
        list(dataset)
    gc.collect()  # a file left open would be a ResourceWarning, an error in these tests


@pytest.mark.parametrize(
    ("array", "got", "expected"),
    [
        (ramp(5, 3, dtype=np.uint8), "dtype uint8", "expected float32"),
        (ramp(5, 4), "shape [1, 4]", "expected [n, 3]: axis 1 is 4, fixed at 3"),
        (ramp(5, 1, 1, 3), "rank 3 with shape [1, 1, 3]", "expected rank 2 as [n, 3]"),
        (ramp(5), "rank 0 with shape []", "expected rank 2 as [n, 3]"),
        (np.float32(1), "a single number", "expected an array with samples along axis 0"),
        (ramp(0, 3), "0 samples", "expected at least 1"),
        (np.array([["a", "b", "c"]]), "dtype str", "expected float32"),
    ],
)
def test_array_that_does_not_fit_is_refused_with_both_sides(tmp_path, array, got, expected):
    message = failure(save(tmp_path / "a.npz", x=array))
    assert "input 'x'" in message
    assert got in message
    assert expected in message


def test_rank_one_less_is_refused_when_the_batch_is_fixed(tmp_path, floats):
    path = save(tmp_path / "a.npz", x=ramp(5, 3))
    message = failure(path, [floats(4, 3)])
    assert "shape [3] is one element of a batch" in message
    assert "fixed at 4: [4, 3]" in message


def test_whole_batches_are_samples_when_the_batch_is_fixed(tmp_path, floats):
    path = save(tmp_path / "a.npz", x=ramp(5, 4, 3))
    assert {array.shape for array in values(open_dataset(path, [floats(4, 3)]))} == {(4, 3)}


def test_empty_samples_are_cast(tmp_path, write_spec, floats):
    save(tmp_path / "a.npz", x=np.zeros((2, 0, 3), np.float32))
    dataset = open_dataset(write_spec("inputs: {x: {npz: a.npz, dtype: int8}}"), [floats("n", 3, dtype="int8")])
    assert {array.shape for array in values(dataset)} == {(0, 3)}


def test_model_without_inputs_needs_no_dataset(tmp_path):
    assert "a.npz: 0 inputs, expected at least one" in failure(save(tmp_path / "a.npz"), [])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_sample_that_is_not_finite_is_named(tmp_path, floats, value, dtype):
    array = ramp(5, 3, dtype=dtype)
    array[3, 1] = value
    dataset = open_dataset(save(tmp_path / "a.npz", x=array), [floats("n", 3, dtype=dtype)])
    with pytest.raises(
        DatasetError, match=rf"'x', sample 3 \(.*a\.npz, array 'x'\): {value} at \[1\].*expected finite"
    ):
        dataset.check()


def test_sample_that_is_not_selected_is_not_checked(tmp_path):
    array = ramp(5, 3)
    array[3] = np.nan
    open_dataset(save(tmp_path / "a.npz", x=array), [X], samples=3).check()


def test_inputs_with_different_numbers_of_samples_are_refused(tmp_path, floats):
    path = save(tmp_path / "a.npz", x=ramp(5, 3), y=ramp(4, 3))
    message = failure(path, [X, floats("n", 3, name="y")])
    assert "input 'y' has 4 samples" in message
    assert "expected 5 as 'x' has" in message


@pytest.mark.parametrize(
    ("arrays", "got", "expected"),
    [
        ({"image": ramp(2, 3)}, "'image' is not an input", "expected 'x'"),
        ({"x": ramp(2, 3), "label": ramp(2)}, "'label' is not an input", "expected 'x'"),
        ({}, "input 'x' is missing", "got nothing"),
    ],
)
def test_arrays_of_the_file_are_the_inputs(tmp_path, arrays, got, expected):
    message = failure(save(tmp_path / "a.npz", **arrays))
    assert got in message
    assert expected in message


def test_key_that_is_missing_lists_those_there_are(tmp_path, write_spec):
    save(tmp_path / "a.npz", images=ramp(2, 3), labels=ramp(2))
    message = failure(write_spec("inputs: {x: {npz: a.npz, array: image}}"))
    assert "no array 'image', expected one of 'images', 'labels'; did you mean 'images'?" in message


def test_pickled_objects_are_never_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{}, {}], dtype=object))
    assert "holds pickled objects (dtype object), expected numbers" in failure(tmp_path / "a.npz")


def test_pickled_object_beside_the_array_does_no_harm(tmp_path, write_spec):
    np.savez(tmp_path / "a.npz", x=ramp(2, 3), meta=np.array([{}], dtype=object))
    assert len(open_dataset(write_spec("inputs: {x: {npz: a.npz, array: x}}"), [X])) == 2


def test_stored_dtype_is_cast_when_a_dtype_is_given(tmp_path, write_spec):
    save(tmp_path / "a.npz", x=ramp(2, 3, dtype=np.uint8))
    dataset = open_dataset(write_spec("inputs: {x: {npz: a.npz, array: x, dtype: float32}}"), [X])
    np.testing.assert_array_equal(np.concatenate(values(dataset)), ramp(2, 3))


def test_cast_between_integers_is_exact(tmp_path, write_spec, floats):
    array = np.array([[2**53 + 1, 0, 2**62 + 1]])
    save(tmp_path / "a.npz", x=array.astype(np.uint64))
    dataset = open_dataset(write_spec("inputs: {x: {npz: a.npz, dtype: int64}}"), [floats("n", 3, dtype="int64")])
    np.testing.assert_array_equal(next(iter(dataset))["x"], array)


def test_floats_are_rounded_for_an_integer_input(tmp_path, write_spec, floats):
    save(tmp_path / "a.npz", x=np.array([[0.4, 1.6, -1.6]], np.float32))
    dataset = open_dataset(write_spec("inputs: {x: {npz: a.npz, dtype: int8}}"), [floats("n", 3, dtype="int8")])
    np.testing.assert_array_equal(next(iter(dataset))["x"], [[0, 2, -2]])


@pytest.mark.parametrize(
    ("dtype", "values", "words"),
    [
        ("uint8", [-1, 0, 255], ["values from -1.0 to 255.0", "expected 0 to 255 to fit uint8"]),
        ("int8", [0, 0, 128], ["from 0.0 to 128.0", "expected -128 to 127 to fit int8"]),
        ("int64", [0, 0, 2.0**63], ["to 9.22", "to 9223372036854775807 to fit int64"]),
        ("int8", [0, 0, np.nan], ["nan at [2]", "expected finite"]),
        ("float16", [0, 0, 1e6], ["inf at [2]", "expected finite"]),
    ],
)
def test_values_outside_the_inputs_dtype_are_refused(tmp_path, write_spec, dtype, values, words):
    save(tmp_path / "a.npz", x=np.array([values], np.float32))
    path = write_spec(f"inputs: {{x: {{npz: a.npz, dtype: {dtype}}}}}")
    message = failure(path, [InputSpec("x", np.dtype(dtype), ("n", 3))])
    assert [word for word in words if word not in message] == []


def test_complex_numbers_are_not_cast(tmp_path, write_spec):
    save(tmp_path / "a.npz", x=ramp(2, 3, dtype=np.complex64))
    message = failure(write_spec("inputs: {x: {npz: a.npz, dtype: float32}}"))
    assert "dtype complex64, expected float32" in message


def complaint(path):
    """Return the message of the DatasetError, or nothing when there is none; any other error escapes."""
    try:
        open_dataset(path, [X]).check()
    except DatasetError as error:
        return error.message
    return ""


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_any_damage_is_a_dataset_error_or_harmless(tmp_path, write):
    path = tmp_path / "a.npz"
    write(path, x=np.random.default_rng(0).random((20, 3), np.float32))
    content = path.read_bytes()
    messages = []
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        messages.append(complaint(path))
    refused = [message for message in messages if message]
    assert all("a.npz" in message and "expected" in message for message in refused)
    assert len(refused) > 300  # the 240 bytes of data, their header and the zip's own


@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_truncated_file_is_refused(tmp_path, keep):
    path = save(tmp_path / "a.npz", x=ramp(20, 3))
    path.write_bytes(path.read_bytes()[:keep])
    assert "a.npz: cannot be read (File is not a zip file), expected an npz file" in failure(path)


def test_array_shorter_than_its_header_says_is_refused(tmp_path):
    stream = io.BytesIO()
    np.save(stream, ramp(20, 3))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x.npy", stream.getvalue()[:-4])
    assert "(array 'x' is cut short), expected an npz file" in failure(tmp_path / "a.npz")


@pytest.mark.parametrize("options", ["", "samples: 1\nseed: 0"])  # the second skips to a sample that is not there
def test_data_shorter_than_the_zip_says_is_refused(tmp_path, write_spec, options):
    stream = io.BytesIO()
    np.save(stream, ramp(20, 3))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", stream.getvalue()[:-228])
    content = bytearray((tmp_path / "a.npz").read_bytes())
    size = content.index(b"PK\x01\x02") + 24  # of the uncompressed member, in the central directory
    content[size : size + 4] = len(stream.getvalue()).to_bytes(4, "little")
    (tmp_path / "a.npz").write_bytes(content)
    message = failure(write_spec(f"{options}\ninputs: {{x: {{npz: a.npz}}}}"))
    assert "a.npz: cannot be read (it is cut short), expected an npz file" in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not numpy", "magic string"),
        (b"\x93NUMPY\x03\x00" + b"\x00" * 100, "format version"),
        (b"\x93NUMPY\x09\x00" + b"\x00" * 100, "format version"),
    ],
)
def test_member_that_is_no_array_is_refused(tmp_path, content, reason):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x.npy", content)
    message = failure(tmp_path / "a.npz")
    assert reason in message
    assert "expected an npz file" in message


def test_negative_dimension_is_refused(tmp_path):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (-1, 3)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x.npy", stream.getvalue())
    assert "(shape (-1, 3)), expected an npz file" in failure(tmp_path / "a.npz")


def test_other_compressions_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_BZIP2) as file:
        file.writestr("x.npy", b"0" * 100)
    message = failure(tmp_path / "a.npz")
    assert "compression type 12, expected deflate or none" in message


def test_missing_file_is_refused(tmp_path):
    assert "gone.npz: cannot be read (No such file or directory), expected an npz file" in failure(
        tmp_path / "gone.npz"
    )


def test_folder_is_not_an_npz_file(tmp_path, write_spec):
    assert "Is a directory" in failure(write_spec("inputs: {x: {npz: .}}"))
