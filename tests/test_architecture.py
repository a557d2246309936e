"""The shape of the package: who imports whom, how long things are, what must never be, what a start costs."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import quantcli
from quantcli import modes, pipeline, plugins
from quantcli.state import FROM_SAMPLES

PACKAGE = Path(quantcli.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {p.relative_to(PACKAGE).as_posix(): ast.parse(p.read_text("utf-8")) for p in FILES}
LONGEST_MODULE = 300
LONGEST_FUNCTION = 50
MOST_PARAMETERS = 5
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "types", "inspect", "base", "core"}
HEAVY = ("numpy", "onnx", "onnx_ir", "onnxruntime", "rich", "yaml", "PIL")
TERMINAL = "cli/terminal.py"  # the door to stdout and stderr
ENVIRONMENT = (  # completion, whether the terminal can draw, where caches are, and where telemetry can be turned off
    "cache.py",
    "cli/boundary.py",
    TERMINAL,
    "runtime.py",
)


def found(kind: type[ast.AST] | tuple[type[ast.AST], ...]) -> list[tuple[str, ast.AST]]:
    """Return every node of a kind in the package with its file."""
    return [(name, node) for name, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, kind)]


def functions() -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    return found((ast.FunctionDef, ast.AsyncFunctionDef))


def where(file: str, node: ast.AST) -> str:
    return f"{file}:{node.lineno} {getattr(node, 'name', '')}".rstrip()


# ---- who imports whom ----------------------------------------------------------------------------------------------


def test_import_contracts_hold():
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", program, "--no-cache"]
    done = subprocess.run(  # noqa: S603 - ours
        command, cwd=PACKAGE.parent, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout[done.stdout.find("Broken contracts") :]
    assert "0 broken" in done.stdout


# ---- how long, and how it is called --------------------------------------------------------------------------------


def test_no_module_is_long():
    lengths = {p.relative_to(PACKAGE).as_posix(): len(p.read_text("utf-8").splitlines()) for p in FILES}
    assert {n: k for n, k in lengths.items() if k > LONGEST_MODULE} == {}


def test_no_function_is_long():
    lengths = {where(file, f): f.end_lineno - f.lineno + 1 for file, f in functions()}
    assert {n: k for n, k in lengths.items() if k > LONGEST_FUNCTION} == {}


def test_most_functions_are_short():
    lengths = sorted(f.end_lineno - f.lineno + 1 for _, f in functions())
    assert lengths[len(lengths) // 2] <= 14


def test_no_module_has_a_vague_name():
    assert [p.relative_to(PACKAGE).as_posix() for p in FILES if p.stem in VAGUE] == []


def test_every_module_says_what_it_knows():
    assert [name for name, tree in TREES.items() if not ast.get_docstring(tree)] == []


def test_public_functions_take_few_positional_parameters():
    many = []
    for file, function in functions():
        count = len(function.args.posonlyargs) + len(function.args.args)
        if not function.name.startswith("_") and count > MOST_PARAMETERS + 1:  # self
            many.append(where(file, function))
    assert many == []


# ---- what must never be --------------------------------------------------------------------------------------------


def test_no_assert_checks_anything():
    assert [where(file, node) for file, node in found(ast.Assert)] == []


def calls(name: str) -> list[str]:
    return [where(f, n) for f, n in found(ast.Call) if isinstance(n.func, ast.Name) and n.func.id == name]


def test_only_the_terminal_prints():
    assert [place for place in calls("print") if not place.startswith(TERMINAL)] == []


def test_only_the_doors_touch_the_environment():
    reads = [
        (file, node)
        for file, node in found((ast.Attribute, ast.Name))
        if getattr(node, "attr", getattr(node, "id", "")) in ("environ", "getenv")
    ]
    assert [where(file, node) for file, node in reads if file not in ENVIRONMENT] == []


@pytest.mark.parametrize("name", ["eval", "exec", "__import__", "globals", "input", "breakpoint"])
def test_nothing_is_evaluated_or_asked(name):
    assert calls(name) == []


def test_nothing_is_global():
    assert [where(file, node) for file, node in found((ast.Global, ast.Nonlocal))] == []


def test_no_public_function_takes_anything_by_any_name():
    loose = [(file, f) for file, f in functions() if f.args.kwarg is not None and not f.name.startswith("_")]
    assert [where(file, f) for file, f in loose] == []


def test_nobody_branches_on_the_name_of_a_mode():
    known = set(modes.names())
    compared = [
        (file, value) for file, c in found(ast.Compare) for value in ast.walk(c) if isinstance(value, ast.Constant)
    ]
    matched = [(file, value) for file, case in found(ast.MatchValue) for value in ast.walk(case)]
    branches = [(f, v) for f, v in (*compared, *matched) if isinstance(v, ast.Constant) and v.value in known]
    assert [where(file, value) for file, value in branches] == []


def test_no_error_is_swallowed():
    silent = [
        (file, handler)
        for file, handler in found(ast.ExceptHandler)
        if all(isinstance(s, ast.Pass | ast.Continue) for s in handler.body)
    ]
    assert [where(file, handler) for file, handler in silent] == []


def test_no_bare_except():
    assert [where(file, handler) for file, handler in found(ast.ExceptHandler) if handler.type is None] == []


def test_state_is_replaced_and_never_changed():
    """The values of the pipeline are frozen."""
    homes = ("plan", "quant", "recipe", "report", "state", "encodings", "dtypes", "kernels", "oprules", "metrics")
    changeable = [
        f"{home}.{name}"
        for home in homes
        for name, kind in vars(import_module(f"quantcli.{home}")).items()
        if dataclasses.is_dataclass(kind) and isinstance(kind, type) and not kind.__dataclass_params__.frozen
    ]
    assert changeable == []


# ---- modes, passes and plug-ins ------------------------------------------------------------------------------------


def test_every_pass_file_is_in_the_table_and_nothing_else():
    stems = {p.stem for p in (PACKAGE / "passes").glob("*.py")} - {"__init__"}
    assert {target.partition(":")[0].rpartition(".")[2] for target in plugins.PASSES.values()} == stems
    assert set(plugins.PASSES) == stems


def test_every_calibrator_file_is_in_the_table_and_nothing_else():
    stems = {p.stem for p in (PACKAGE / "calibrators").glob("*.py")} - {"__init__"}
    assert {target.partition(":")[0].rpartition(".")[2] for target in plugins.CALIBRATORS.values()} == stems


@pytest.mark.parametrize("target", [*plugins.PASSES.values(), *plugins.CALIBRATORS.values()])
def test_a_plug_in_is_frozen_options_with_defaults(target):
    module, _, name = target.partition(":")
    kind = getattr(import_module(module), name)
    assert kind.__dataclass_params__.frozen
    assert kind() == kind()


@pytest.mark.parametrize("mode", modes.names())
def test_the_passes_of_a_mode_fit_together(mode):
    recipe = modes.resolve(mode)
    pipeline.check(plugins.passes_of(recipe), has=FROM_SAMPLES)  # a mode without calibration is verified on trials


@pytest.mark.parametrize("mode", modes.names())
def test_a_mode_is_a_short_file_of_data(mode):
    folder = modes.sample_folder().parent / "configs"
    lines = [line for line in (folder / f"{mode}.yaml").read_text("utf-8").splitlines() if line.strip()]
    assert len(lines) <= 25
    assert modes.resolve(mode).name == mode
    assert modes.resolve(mode).summary


# ---- what a start costs --------------------------------------------------------------------------------------------

STARTED = """
import json, sys
sys.argv = ["quant", *json.loads(sys.argv[1])]
from quantcli.cli import main
try:
    main()
finally:
    print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["convert", "--help"], ["modes", "--help"]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments):
    command = [sys.executable, "-c", STARTED, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)  # noqa: S603 - ours
    loaded = json.loads(done.stderr.splitlines()[-1])
    assert [name for name in HEAVY if name in loaded] == []


def test_the_package_itself_loads_nothing_at_all():
    program = "import sys; before = set(sys.modules); import quantcli; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)  # noqa: S603 - ours
    loaded = ast.literal_eval(done.stdout)
    assert [name for name in loaded if name.partition(".")[0] in HEAVY or name.startswith("quantcli.")] == []


@pytest.mark.parametrize(("options", "left"), [((), {".cache", ".cache/quantcli"}), (("--no-cache",), set())])
def test_a_conversion_leaves_nothing_but_its_cache_in_the_home_folder(tmp_path, options, left):
    """onnxruntime 1.31 would leave a device id and a telemetry database there, and warn where it cannot."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    own = ("ORT_DISABLE_TELEMETRY", "QUANT_CACHE_DIR", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")
    clean = {k: v for k, v in os.environ.items() if k not in own}
    command = [sys.executable, "-m", "quantcli", "convert", "--quiet", "--samples", "2", "--threads", "1", *options]
    subprocess.run(  # noqa: S603 - ours
        command, cwd=tmp_path / "work", env={**clean, "HOME": str(tmp_path / "home")}, check=True, timeout=60
    )
    found = {str(p.relative_to(tmp_path / "home")) for p in (tmp_path / "home").rglob("*")}
    assert {name for name in found if not name.startswith(".cache/quantcli/")} == left
    assert len(found) > len(left) or not left


ALONE = """
import importlib, sys
for name in sys.argv[1:]:
    for loaded in [n for n in sys.modules if n.partition(".")[0] == "quantcli"]:
        del sys.modules[loaded]
    importlib.import_module(name)
"""


def test_every_module_can_be_imported_first():
    """No module counts on another one having been imported before it."""
    parts = [p.relative_to(PACKAGE.parent).with_suffix("").parts for p in FILES]
    names = [".".join(p).removesuffix(".__init__") for p in parts if p[-1] != "__main__"]
    done = subprocess.run(  # noqa: S603 - ours
        [sys.executable, "-c", ALONE, *names], capture_output=True, text=True, check=False, timeout=600
    )
    assert (done.returncode, done.stderr) == (0, "")
