"""Whatever is wrong with what the user gives: one clear line, a documented exit code, nothing left, nothing touched."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import models
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantcli import cli, files, modes, plugins, serialization
from quantcli.cli import boundary, progress

PASSES = modes.resolve("int8-only").passes
WRITTEN = 3  # model, encodings, report


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what is wrong."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return line


def quant(folder: Path, *arguments: object) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = boundary.run(cli.quant, [str(a) for a in arguments])
    return Outcome(code, out.getvalue(), err.getvalue())


def float_model() -> onnx.ModelProto:
    return models.text(
        """(float[N, 2, 4, 4] image) => (float[N, 3] scores) {
             conv = Conv<pads = [1, 1, 1, 1]>(image, kernel, shift)  relu = Relu(conv)  flat = Flatten(relu)
             scores = MatMul(flat, head)
           }""",
        opset=17, kernel=models.weight(3, 2, 3, 3), shift=models.weight(3), head=models.weight(48, 3),
    )  # fmt: skip


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t).copy() for t in model.graph.initializer}


def with_weights(model: onnx.ModelProto, arrays: dict[str, np.ndarray]) -> onnx.ModelProto:
    kept = {**weights(model), **arrays}
    del model.graph.initializer[:]
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in kept.items())
    return model


def snapshot(folder: Path) -> dict[str, str]:
    """Return a digest of every file and link of a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        plain = path.is_file() and not path.is_symlink()
        what = hashlib.sha256(path.read_bytes()).hexdigest() if plain else str(path.lstat().st_mode)
        found[str(path.relative_to(folder))] = what
    return found


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a good model ``m.onnx`` and good data ``d.npz``, and an empty scratch folder beside it."""
    folder, scratch = tmp_path / "here", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    onnx.save(float_model(), folder / "m.onnx")
    images = np.random.default_rng(1).normal(size=(4, 2, 4, 4)).astype(np.float32)
    np.savez(folder / "d.npz", image=images)
    return folder


@pytest.fixture
def refused(place, tmp_path, caplog):
    """Convert, and check what every refusal has in common."""

    def run(*arguments: object, code: int, error: str) -> Outcome:
        before = snapshot(tmp_path)
        given = arguments if arguments and arguments[0] == "modes" else ("convert", *arguments)
        done = quant(place, *given, "--threads", "1", "--quiet")
        assert (done.code, done.out) == (code, ""), done.err
        assert error in done.error
        assert "Traceback" not in done.err
        assert len([line for line in done.err.splitlines() if not line.startswith(("hint: ", "  "))]) == 1
        assert snapshot(tmp_path) == before
        assert [r.getMessage() for r in caplog.records] == []  # outside pytest, logged warnings land on stderr
        return done

    return run


def converting(model: str = "m.onnx", data: str = "d.npz", output: str = "o.onnx") -> tuple[str, ...]:
    return model, "--representative-dataset", data, "-o", output


def test_the_good_model_and_the_good_data_convert(place):
    done = quant(place, "convert", *converting(), "--quiet")
    assert (done.code, done.err) == (0, "")


# --- the model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "not an ONNX model"),
        (b"\x00" * 64, "not a readable ONNX model"),
        (b"This is not a model.\n" * 50, "not a readable ONNX model"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "not a readable ONNX model"),
        (b"TFL3" + b"\x1c\x00\x00\x00TFL3" * 40, "not a readable ONNX model"),
        (b"\x08\x08", "it has no graph"),
    ],
    ids=["empty", "zeros", "text", "picture", "tflite", "header-only"],
)
def test_what_is_not_onnx_is_refused(refused, place, content, error):
    (place / "m.onnx").write_bytes(content)
    refused(*converting(), code=3, error=error)


@pytest.mark.parametrize("percent", [1, 5, 20, 40, 60, 80, 95, 99])
def test_a_truncated_model_is_refused(refused, place, percent):
    whole = (place / "m.onnx").read_bytes()
    (place / "m.onnx").write_bytes(whole[: len(whole) * percent // 100])
    refused(*converting(), code=3, error="m.onnx: not")


def test_a_missing_model_is_refused(refused):
    refused(*converting("no.onnx"), code=3, error="no.onnx: does not exist")


def test_a_folder_for_a_model_is_refused(refused, place):
    (place / "folder").mkdir()
    refused(*converting("folder"), code=3, error="folder: is a folder")


@pytest.mark.parametrize("count", [1, -1], ids=["in one place", "everywhere"])
def test_a_name_that_is_no_text_is_a_corrupt_model(refused, place, count):
    whole = (place / "m.onnx").read_bytes()
    assert b"\x06kernel" in whole
    (place / "m.onnx").write_bytes(whole.replace(b"\x06kernel", b"\x06ker\xeeel", count))
    refused(*converting(), code=3, error="m.onnx")


def test_a_node_that_reads_nothing_known_is_a_corrupt_model(refused, place):
    model = float_model()
    model.graph.node[1].input[0] = "covn"
    onnx.save(model, place / "m.onnx")
    refused(*converting(), code=3, error="m.onnx")


def test_nodes_in_a_circle_are_refused(refused, place):
    model = float_model()
    model.graph.node[0].input[0] = "relu"
    onnx.save(model, place / "m.onnx")
    refused(*converting(), code=3, error="m.onnx")


def test_an_unknown_operator_domain_is_refused_with_its_name(refused, place):
    model = float_model()
    model.graph.node[1].domain = "com.acme"
    model.opset_import.append(helper.make_opsetid("com.acme", 1))
    onnx.save(model, place / "m.onnx")
    assert "com.acme" in refused(*converting(), code=3, error="m.onnx").error


def test_an_unknown_operator_is_refused_with_its_name(refused, place):
    model = float_model()
    model.graph.node[1].op_type = "Rleu"
    onnx.save(model, place / "m.onnx")
    assert "Rleu" in refused(*converting(), code=3, error="m.onnx").error


# --- external data --------------------------------------------------------------------------------------------------


def with_external_data(place: Path, location: str = "weights.bin") -> None:
    model = float_model()
    for tensor in model.graph.initializer:
        data = tensor.raw_data
        onnx.external_data_helper.set_external_data(tensor, location, offset=0, length=len(data))
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        if not (place / location).exists() or (place / location).stat().st_size < len(data):
            (place / location).write_bytes(data)
    (place / "m.onnx").write_bytes(model.SerializeToString())


def test_external_data_beside_the_model_converts(place):
    with_external_data(place)
    assert quant(place, "convert", *converting(), "--quiet").code == 0


def test_missing_external_data_is_refused_with_its_name(refused, place):
    with_external_data(place)
    (place / "weights.bin").unlink()
    refused(*converting(), code=3, error="'weights.bin' of 'kernel' is missing")


def test_external_data_that_is_cut_short_is_refused(refused, place):
    with_external_data(place)
    (place / "weights.bin").write_bytes(b"\0" * 20)
    refused(*converting(), code=3, error="'weights.bin' ends before 'kernel'")


def test_external_data_above_the_folder_is_refused(refused, place):
    with_external_data(place, "../weights.bin")
    refused(*converting(), code=3, error="outside the model's folder: ../weights.bin")


def test_external_data_at_an_absolute_path_is_refused(refused, place, tmp_path):
    with_external_data(place, str(tmp_path / "weights.bin"))
    refused(*converting(), code=3, error="outside the model's folder")


def test_external_data_through_a_link_out_of_the_folder_is_refused(refused, place, tmp_path):
    with_external_data(place)
    (place / "weights.bin").rename(tmp_path / "elsewhere.bin")
    (place / "weights.bin").symlink_to(tmp_path / "elsewhere.bin")
    refused(*converting(), code=3, error="outside the model's folder")


def test_missing_external_data_of_a_tensor_in_a_branch_is_refused(refused, place):
    model = branching(float_model())
    (tensor,) = model.graph.node[-1].attribute[0].g.initializer
    onnx.external_data_helper.set_external_data(tensor, "gone.bin", offset=0, length=12)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    (place / "m.onnx").write_bytes(model.SerializeToString())
    refused(*converting(), code=3, error="gone.bin")


def branching(model: onnx.ModelProto, op_type: str = "Add") -> onnx.ModelProto:
    """Return the model with an If behind its output, whose branches hold a tensor and a node of ``op_type``."""
    one = numpy_helper.from_array(np.ones(3, np.float32), "one")
    step = numpy_helper.from_array(np.float32(0.5), "step")
    zero = numpy_helper.from_array(np.uint8(3), "zero")
    inputs = ["scores", "one"] if op_type == "Add" else ["scores", "step", "zero"]
    kind = TensorProto.FLOAT if op_type == "Add" else TensorProto.UINT8

    def branch(name: str) -> onnx.GraphProto:
        node = helper.make_node(op_type, inputs, [f"{name}_out"])
        output = helper.make_tensor_value_info(f"{name}_out", kind, None)
        return helper.make_graph([node], name, [], [output], [one] if op_type == "Add" else [step, zero])

    model.graph.initializer.append(numpy_helper.from_array(np.array([True]), "which"))
    model.graph.node.append(
        helper.make_node("If", ["which"], ["chosen"], then_branch=branch("a"), else_branch=branch("b"))
    )
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("chosen", kind, None))
    return model


# --- already quantized ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["int8-only", "full-integer"])
def test_our_own_output_is_refused(refused, place, mode):
    assert quant(place, "convert", *converting(output="q.onnx"), "--mode", mode, "--quiet").code == 0
    refused(*converting("q.onnx"), code=3, error="q.onnx: already quantized")


def test_quantization_inside_a_branch_is_refused(refused, place):
    onnx.save(branching(float_model(), "QuantizeLinear"), place / "m.onnx")
    refused(*converting(), code=3, error="already quantized")


def test_quantization_inside_a_function_is_refused(refused, place):
    model = float_model()
    body = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    fake = helper.make_function("local", "Fake", ["x", "s", "z"], ["y"], body, [helper.make_opsetid("", 17)])
    model.functions.append(fake)
    model.opset_import.append(helper.make_opsetid("local", 1))
    with_weights(model, {"s": np.float32(0.1), "z": np.uint8(3)})
    model.graph.node[1].op_type, model.graph.node[1].domain = "Fake", "local"
    model.graph.node[1].input.extend(["s", "z"])
    onnx.save(model, place / "m.onnx")
    refused(*converting(), code=3, error="already quantized")


# --- weights that are not finite ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["int8-only", "full-integer"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["kernel", "shift", "head"])
def test_a_weight_that_is_not_finite_is_refused_with_its_name(refused, place, name, value, mode):
    model = float_model()
    array = weights(model)[name]
    array.flat[1] = value
    onnx.save(with_weights(model, {name: array}), place / "m.onnx")
    refused(*converting(), "--mode", mode, code=3, error=f"{name!r}")


@pytest.mark.parametrize("parameter", ["gain", "offset", "mean", "variance"])
def test_a_normalization_that_is_not_finite_is_refused(refused, place, parameter):
    model = float_model()
    node = helper.make_node("BatchNormalization", ["conv", "gain", "offset", "mean", "variance"], ["normal"])
    model.graph.node.insert(1, node)
    model.graph.node[2].input[0] = "normal"
    ones = {n: np.ones(3, np.float32) for n in ("gain", "offset", "mean", "variance")}
    ones[parameter][1] = np.nan
    onnx.save(with_weights(model, ones), place / "m.onnx")
    refused(*converting(), code=3, error="NaN or infinite")


def test_a_weight_that_is_not_finite_is_refused_even_where_its_operator_stays_float(refused, place):
    model = float_model()
    onnx.save(with_weights(model, {"head": np.full((48, 3), np.nan, np.float32)}), place / "m.onnx")
    refused(*converting(), "--mode", "full-integer", "--float", "op:MatMul", code=3, error="'head'")


# --- the data -------------------------------------------------------------------------------------------------------


def test_data_that_does_not_exist_is_refused(refused):
    refused(*converting(data="no.npz"), code=3, error="no.npz: cannot be read")


def test_no_samples_are_refused(refused, place):
    np.savez(place / "d.npz", image=np.zeros((0, 2, 4, 4), np.float32))
    refused(*converting(), code=3, error="0 samples, expected at least 1")


def test_a_file_without_arrays_is_refused(refused, place):
    np.savez(place / "d.npz")
    refused(*converting(), code=3, error="'image' is missing")


def test_an_empty_folder_of_samples_is_refused(refused, place):
    (place / "feeds").mkdir()
    refused(*converting(data="feeds"), code=3, error="no file matches")


def test_an_empty_spec_is_refused(refused, place):
    (place / "spec.yaml").write_text("")
    refused(*converting(data="spec.yaml"), code=3, error="spec.yaml")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_not_finite_is_refused_with_its_number(refused, place, value):
    images = np.ones((4, 2, 4, 4), np.float32)
    images[2, 0, 1, 1] = value
    np.savez(place / "d.npz", image=images)
    refused(*converting(), code=3, error="input 'image', sample 2")


def test_a_sample_of_another_shape_is_refused_with_both_shapes(refused, place):
    np.savez(place / "d.npz", image=np.zeros((4, 2, 5, 4), np.float32))
    error = refused(*converting(), code=3, error="image").error
    assert "[1, 2, 5, 4]" in error
    assert "[N, 2, 4, 4]" in error


def test_samples_of_another_name_are_refused_with_both_names(refused, place):
    np.savez(place / "d.npz", imgae=np.zeros((4, 2, 4, 4), np.float32))
    refused(*converting(), code=3, error="'imgae' is not an input, expected 'image'; did you mean 'image'?")


def test_damaged_data_are_refused(refused, place):
    whole = (place / "d.npz").read_bytes()
    (place / "d.npz").write_bytes(whole[: len(whole) // 2])
    refused(*converting(), code=3, error="d.npz: cannot be read")


def test_no_data_is_refused_with_what_to_do(refused):
    done = refused("m.onnx", code=2, error="mode 'int8-only' needs calibration data")
    assert "--representative-dataset" in done.err


# --- the output -----------------------------------------------------------------------------------------------------


def test_a_missing_output_folder_is_refused(refused):
    refused(*converting(output="no/o.onnx"), code=2, error="the folder no does not exist")


def test_a_folder_for_an_output_is_refused(refused, place):
    (place / "out").mkdir()
    refused(*converting(output="out"), code=2, error="out is a folder")


@pytest.mark.parametrize("name", ["", ".", "..", "/"])
def test_an_output_without_a_name_is_refused(refused, name):
    refused(*converting(output=name), code=2, error="expected the name of")


def test_a_read_only_output_folder_is_refused(refused, place, monkeypatch):
    (place / "out").mkdir()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "out" and real(path, mode))
    refused(*converting(output="out/o.onnx"), code=2, error="the folder out is not writable")


def test_a_sidecar_that_is_a_folder_is_refused(refused, place):
    (place / "o.report.json").mkdir()
    refused(*converting(), code=2, error="o.report.json is a folder")


@pytest.mark.parametrize("name", ["m.onnx", "./m.onnx", "../here/m.onnx", "soft.onnx", "hard.onnx"])
def test_the_output_may_not_be_the_input(refused, place, name):
    (place / "soft.onnx").symlink_to("m.onnx")
    (place / "hard.onnx").hardlink_to(place / "m.onnx")
    refused(*converting(output=name), code=2, error="the output is the input")


def test_the_output_may_not_be_the_target_of_the_input(refused, place):
    (place / "soft.onnx").symlink_to("m.onnx")
    refused(*converting("soft.onnx", output="m.onnx"), code=2, error="the output is the input")


def test_the_output_may_not_be_the_data(refused):
    refused(*converting(output="d.npz"), code=2, error="d.npz")


def test_the_output_may_not_be_the_external_data_of_the_input(refused, place):
    with_external_data(place)
    refused(*converting(output="weights.bin"), code=2, error="weights.bin")


def test_the_output_may_not_be_the_recipe(refused, place):
    (place / "r.yaml").write_text("extends: int8-only\nname: mine\n")
    refused(*converting(output="r.yaml"), "--recipe", "r.yaml", code=2, error="r.yaml")


def test_an_output_that_is_no_plain_file_is_refused(refused, place):
    os.mkfifo(place / "pipe")  # as /dev/null is none: it would be replaced by a file
    refused(*converting(output="pipe"), code=2, error="pipe")


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


class FullDisk:
    """Stands for ``os`` in ``quantcli.files``: the disk is full from the given write on."""

    def __init__(self, writes: int) -> None:
        self._left = writes

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    @contextlib.contextmanager
    def fdopen(self, handle: int, mode: str):
        with os.fdopen(handle, mode) as stream:
            if not self._left:
                stream.write(b"the beginning")
                stream.flush()
                full()
            self._left -= 1
            yield stream


@pytest.mark.parametrize("before", range(WRITTEN))
def test_a_full_disk_while_writing_leaves_nothing(refused, monkeypatch, before):
    monkeypatch.setattr(files, "os", FullDisk(before))
    refused(*converting(), code=2, error="No space left on device")


def failing_at(call: int, error: BaseException, function):
    calls = iter(range(1000))

    def wrapped(*arguments: object, **named: object):
        if next(calls) == call:
            raise error
        return function(*arguments, **named)

    return wrapped


@pytest.mark.parametrize("before", range(WRITTEN))
def test_a_full_disk_while_renaming_leaves_nothing(refused, monkeypatch, before):
    error = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(Path, "replace", failing_at(before, error, Path.replace))
    refused(*converting(), code=2, error="No space left on device")


@pytest.mark.parametrize("before", range(WRITTEN))
def test_a_full_disk_never_leaves_a_mixture_of_two_runs(place, monkeypatch, before):
    """What the run before wrote is there as a whole, or not at all: never a model without its encodings."""
    assert quant(place, "convert", *converting(), "--quiet").code == 0
    old = {n: d for n, d in snapshot(place).items() if n.startswith("o.")}
    error = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(Path, "replace", failing_at(before, error, Path.replace))
    assert quant(place, "convert", *converting(), "--samples", "2", "--quiet").code == 2
    left = {n: d for n, d in snapshot(place).items() if n.startswith("o.")}
    assert len(old) == WRITTEN
    assert left in ({}, old)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a full file cannot be closed well
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("buffering", [0, -1], ids=["at once", "when the buffer is full"])
def test_a_full_scratch_disk_is_no_bug(refused, monkeypatch, buffering):
    monkeypatch.setattr(tempfile, "TemporaryFile", functools.partial(Path("/dev/full").open, "r+b", buffering))
    refused(*converting(), code=2, error="No space left on device")


def test_a_full_disk_for_intermediate_models_leaves_no_output(place, monkeypatch):
    monkeypatch.setattr(serialization.Content, "write_to", full)
    done = quant(place, "convert", *converting(), "--save-temps", "steps", "--quiet")
    assert done.code == 2
    assert "No space left on device" in done.error
    assert not (place / "o.onnx").exists()


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def interrupted(place, tmp_path):
    """Convert, and check what every interruption has in common."""

    def run(*arguments: object) -> None:
        before = snapshot(tmp_path)
        done = quant(place, "convert", *converting(), "--threads", "1", *arguments)
        said = [line for line in done.err.splitlines() if not line.endswith(" s")]  # a line per finished step
        assert (done.code, done.out, said) == (130, "", ["interrupted; nothing was written"])
        assert snapshot(tmp_path) == before

    return run


def raising(wanted: str):
    def watch(_self: object, name: str, *_: object) -> None:
        if name == wanted:
            raise KeyboardInterrupt

    return watch


@pytest.mark.parametrize("step", [s.name for s in PASSES if s.enabled])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupt_around_a_pass_leaves_nothing(interrupted, monkeypatch, step, moment):
    monkeypatch.setattr(progress.Lines, moment, raising(step))
    interrupted()


@pytest.mark.parametrize("step", ["check_parity", "calibrate", "emit", "gptq", "bias_correction", "verify"])
def test_an_interrupt_inside_a_pass_leaves_nothing(interrupted, monkeypatch, step):
    monkeypatch.setattr(progress.Lines, "tick", raising(step))
    interrupted()


@pytest.mark.parametrize("before", range(WRITTEN))
def test_an_interrupt_while_writing_leaves_nothing(interrupted, monkeypatch, before):
    monkeypatch.setattr(Path, "chmod", failing_at(before, KeyboardInterrupt(), Path.chmod))
    interrupted()


@pytest.mark.parametrize("before", range(WRITTEN))
def test_an_interrupt_while_renaming_leaves_nothing(interrupted, monkeypatch, before):
    monkeypatch.setattr(Path, "replace", failing_at(before, KeyboardInterrupt(), Path.replace))
    interrupted()


def test_an_interrupt_while_the_model_is_read_leaves_nothing(interrupted, monkeypatch):
    monkeypatch.setattr(files, "load_model", failing_at(0, KeyboardInterrupt(), files.load_model))
    interrupted()


def test_an_interrupt_while_the_passes_are_found_leaves_nothing(interrupted, monkeypatch):
    monkeypatch.setattr(plugins, "passes_of", failing_at(0, KeyboardInterrupt(), plugins.passes_of))
    interrupted()


def test_a_real_interrupt_ends_the_process_with_130_and_no_traceback(place, tmp_path):
    before = snapshot(tmp_path)
    command = [sys.executable, "-m", "quantcli", "convert", "m.onnx", "--random-data", "20000", "--threads", "1"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # tests started in the background ignore the signal
    with subprocess.Popen(  # noqa: S603 - ours
        command,
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heard,  # noqa: PLW1509 - nothing but a handler is set
    ) as process:
        first = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert first.startswith("widen")
    assert (process.returncode, out, err.splitlines()[-1]) == (130, "", "interrupted; nothing was written")
    assert "Traceback" not in err
    assert snapshot(tmp_path) == before


# --- what is in the way, is left alone ------------------------------------------------------------------------------


def test_a_read_only_model_is_no_obstacle(place):
    (place / "m.onnx").chmod(0o444)
    assert quant(place, "convert", *converting(), "--quiet").code == 0


def test_an_old_output_is_replaced_as_a_whole(place):
    for name in ("o.onnx", "o.encodings.json", "o.report.json"):
        (place / name).write_text("old")
    assert quant(place, "convert", *converting(), "--quiet").code == 0
    assert not [p for p in place.glob("o.*") if p.read_bytes() == b"old"]


def test_a_folder_with_blanks_and_umlauts_is_no_obstacle(place):
    folder = place / "größe 1 (neu)"
    folder.mkdir()
    shutil.copy(place / "m.onnx", folder / "mein modell.onnx")
    done = quant(folder, "convert", "mein modell.onnx", "--representative-dataset", "../d.npz", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert (folder / "mein modell.int8-only.onnx").is_file()
