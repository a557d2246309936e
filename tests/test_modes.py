"""Every shipped mode is a recipe that resolves, and that this version can run."""

from __future__ import annotations

import pytest

from quantcli import modes, plugins, recipe_reader
from quantcli.errors import RecipeError, UsageError

NAMES = modes.names()
each_mode = pytest.mark.parametrize("mode", NAMES)


def test_modes_ship():
    assert {"full-integer", "int8-only"} <= set(NAMES)


@each_mode
def test_every_mode_has_the_name_of_its_file(mode):
    assert modes.resolve(mode).name == mode


@each_mode
def test_every_mode_says_what_it_is(mode):
    assert modes.resolve(mode).summary


@each_mode
def test_no_mode_shares_its_summary(mode):
    summaries = [modes.resolve(m).summary for m in NAMES]
    assert summaries.count(modes.resolve(mode).summary) == 1


@each_mode
def test_every_pass_of_a_mode_exists(mode):
    assert {s.name for s in modes.resolve(mode).passes} <= set(plugins.PASSES)


@each_mode
def test_every_option_of_a_mode_is_accepted(mode):
    found = modes.resolve(mode)
    assert [p.name for p in plugins.passes_of(found)] == [s.name for s in found.passes if s.enabled]


@each_mode
def test_every_mode_ends_with_a_verification(mode):
    assert modes.resolve(mode).passes[-1].name == "verify"


@each_mode
def test_a_resolved_mode_parses_to_itself(mode):
    found = modes.resolve(mode)
    assert recipe_reader.parse(found.dump(), where=mode) == found


@each_mode
def test_settings_are_applied_to_modes(mode):
    assert not modes.resolve(mode, settings=("passes.verify=off",)).enabled("verify")


def test_settings_do_not_outlive_a_call():
    modes.resolve("int8-only", settings=("format=qdq",))
    assert modes.resolve("int8-only").format == "integer"


def test_an_unknown_mode_is_an_error_with_the_nearest():
    with pytest.raises(UsageError, match="unknown mode 'int8-olny'; did you mean 'int8-only'"):
        modes.resolve("int8-olny")


def test_a_mode_like_no_other_is_an_error_with_all():
    with pytest.raises(UsageError, match=f"unknown mode 'x'; modes: {', '.join(NAMES)}"):
        modes.resolve("x")


def test_a_setting_of_a_wrong_value_is_an_error_of_the_call():
    with pytest.raises(UsageError, match="--set: format is 'qqd'"):
        modes.resolve("int8-only", settings=("format=qqd",))


# ---- recipe files ----------------------------------------------------------------------------------------------------


def test_a_file_takes_the_place_of_the_mode(tmp_path):
    (tmp_path / "own.yaml").write_text("name: own", "utf-8")
    assert modes.resolve("int8-only", tmp_path / "own.yaml").name == "own"


def test_a_file_may_extend_a_mode(tmp_path):
    (tmp_path / "own.yaml").write_text("extends: int8-only\nname: own", "utf-8")
    assert modes.resolve("int8-only", tmp_path / "own.yaml").passes == modes.resolve("int8-only").passes


def test_settings_are_applied_to_files(tmp_path):
    (tmp_path / "own.yaml").write_text("extends: int8-only\nname: own", "utf-8")
    assert modes.resolve("int8-only", tmp_path / "own.yaml", ("format=qdq",)).format == "qdq"


@pytest.mark.parametrize("content", [None, b"name: \xff\xfe", b"name: \x00"], ids=["missing", "not-utf-8", "binary"])
def test_a_file_that_cannot_be_read_is_a_recipe_error(tmp_path, content):
    path = tmp_path / "own.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"own\.yaml"):
        modes.resolve("int8-only", path)


def test_a_folder_is_no_recipe(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        modes.resolve("int8-only", tmp_path)


# ---- the bundled sample ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits.onnx", "dataset.yaml"])
def test_the_bundled_sample_is_there(name):
    assert (modes.sample_folder() / name).is_file()
