"""Another distribution adds a pass and a calibrator: found, checked, run, and blamed for its own faults."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import models
import numpy as np
import onnx
import pytest

PACKAGE = Path(__file__).parent / "plugin_package"
DOCS = Path(__file__).parent.parent / "docs"
MODULE = "quantcli_example"
PASSES = "widen, {convert_opset: {minimum: 14}}, simplify, {zero_small: {share: SHARE}}, make_plan, "
RECIPE = (
    "extends: full-integer\nname: pruned\npasses: ["
    + PASSES
    + "{calibrate: {calibrator: sigmas}}, assign, emit, verify]\n"
)


def install(source: Path, into: Path) -> None:
    """Install a distribution of pure Python as pip does, without pip: its modules, and what its metadata says."""
    project = tomllib.loads((source / "pyproject.toml").read_text("utf-8"))["project"]
    name = project["name"].replace("-", "_")
    shutil.copytree(source / name, into / name, ignore=shutil.ignore_patterns("__pycache__"))
    info = into / f"{name}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = (f"[{g}]\n" + "".join(f"{n} = {v}\n" for n, v in e.items()) for g, e in project["entry-points"].items())
    (info / "entry_points.txt").write_text("\n".join(groups))


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    install(PACKAGE, folder)
    return folder


@pytest.fixture
def quant(site, tmp_path):
    """Run ``quant convert`` on a small model in an environment that has the package."""
    model = models.text(
        "(float[1,16] x) => (float[1,8] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }",
        w=models.weight(16, 16), v=models.weight(16, 8),
    )  # fmt: skip
    onnx.save(model, tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x=rng.normal(size=(24, 1, 16)).astype(np.float32))

    def run(*arguments: str, recipe: str = "") -> subprocess.CompletedProcess[str]:
        if recipe:
            (tmp_path / "recipe.yaml").write_text(recipe)
        given = ["--recipe", "recipe.yaml"] if recipe else ["--mode", "full-integer"]
        command = [sys.executable, "-m", "quantcli", "convert", "model.onnx", "--representative-dataset", "data.npz"]
        return subprocess.run(  # noqa: S603 - the tool itself
            [*command, *given, "-o", "out.onnx", "--threads", "1", *arguments],
            capture_output=True, text=True, cwd=tmp_path, check=False,
            env={**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip

    return run


def edit(site, file, old, new):
    path = site / MODULE / file
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def recipe(share="0.5"):
    return RECIPE.replace("SHARE", share)


def test_a_recipe_runs_both(quant, tmp_path):
    done = quant("--json", recipe=recipe())
    assert done.returncode == 0, done.stderr
    (note,) = [n for n in json.loads(done.stdout)["notes"] if n.startswith("zero_small zeroed")]
    found = onnx.load(tmp_path / "out.onnx")
    weights = [onnx.numpy_helper.to_array(t) for t in found.graph.initializer if len(t.dims) == 2]
    assert {w.dtype for w in weights} == {np.dtype(np.int8)}
    assert int(note.split()[2]) > 50
    assert sum(int((w == 0).sum()) for w in weights) >= int(note.split()[2])


def test_the_calibrator_is_an_option_of_the_command_line(quant, tmp_path):
    scales = {}
    for options in (("--calibrator", "sigmas"), ("--calibrator", "sigmas", "--set", "passes.calibrate.sigmas=1.0"), ()):
        assert quant(*options).returncode == 0
        entries = json.loads((tmp_path / "out.encodings.json").read_text())["encodings"]
        scales[options] = next(e for e in entries if e["name"] == "x")["y_scale"]
    four, one, seen = (float(np.ravel(s)[0]) for s in scales.values())
    assert one < four <= seen
    assert one < 0.5 * seen


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (recipe("many"), "zero_small.share is 'many', expected float"),
        (recipe("2.5"), "'zero_small' does not take these options: share is 2.5, expected 0 to 1"),
        (recipe().replace("share:", "shore:"), "'zero_small' has no option 'shore'; did you mean 'share'?"),
        (recipe().replace("zero_small:", "zero_smal:"), "unknown pass 'zero_smal'; did you mean 'zero_small'?"),
        (recipe().replace("sigmas", "sigma"), "unknown calibrator 'sigma'; did you mean 'sigmas'?"),
    ],
)
def test_names_and_options_are_checked(wrong, message, quant, tmp_path):
    done = quant(recipe=wrong)
    assert done.returncode == 3
    assert message in done.stderr
    assert not (tmp_path / "out.onnx").exists()


OF = "quantcli-example 0.1.0"
FAULTS = {  # by case: what is put in the place of what in which file, and what is told
    "pass": ("passes.py", "state.model.clone()", "state.modell.clone()",
             OF + r" failed in ZeroSmall.__call__ \(passes.py:\d+\): AttributeError: 'State' object has no"),
    "below the pass": ("passes.py", "np.abs(array).max(initial=0)", "np.reshape(array, (3, 5))",
                       OF + r" failed in ZeroSmall.__call__ \(passes.py:\d+\): ValueError: cannot reshape"),
    "file": ("passes.py", "weights = [", "open('nothing'); weights = [",
             OF + r" failed in ZeroSmall.__call__ \(passes.py:\d+\): FileNotFoundError: "),
    "observer": ("calibrators.py", "return HistogramObserver()", "return HistogramObserver(1, 2, 3)",
                 OF + r" failed in Sigmas.observer \(calibrators.py:\d+\): TypeError: "),
    "range": ("calibrators.py", "seen = stats.histogram", "seen = 1 / 0",
              OF + r" failed in Sigmas.range \(calibrators.py:\d+\): ZeroDivisionError: division by zero"),
    "result": ("passes.py", "return replace(state, model=model)", "return str(model) or replace(state, model=model)",
               f"pass 'zero_small' of {OF} returned str, expected a State"),
    "import": ("passes.py", "import numpy as np", "import nampy as np",
               f"pass 'zero_small' of {OF} cannot be loaded: ModuleNotFoundError: No module named"),
    "contract": ("passes.py", "    needs: ClassVar", "    neads: ClassVar", f"pass 'zero_small' of {OF} has no needs"),
    "calibrator's contract": ("calibrators.py", "def range(", "def ranges(",
                              rf"calibrator 'sigmas' of {OF} has no range\(\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_told_as_that_of_the_package(case, quant, site, tmp_path):
    file, old, new, message = FAULTS[case]
    edit(site, file, old, new)
    done = quant(recipe=recipe())
    assert done.returncode == 3
    assert re.search(message, done.stderr)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.onnx").exists()


def test_an_error_of_ours_that_a_package_raises_is_passed_on(quant, site):
    edit(
        site,
        "passes.py",
        "weights = [",
        "from quantcli.errors import ModelError; raise ModelError('too odd'); weights = [",
    )
    done = quant(recipe=recipe())
    assert (done.returncode, done.stderr.splitlines()[-1]) == (3, "error: too odd")


def test_a_name_that_two_packages_offer_is_refused(quant, site, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(PACKAGE, other)
    text = (other / "pyproject.toml").read_text().replace('"quantcli-example"', '"quantcli-twin"')
    (other / "pyproject.toml").write_text(text)
    (other / MODULE).rename(other / "quantcli_twin")
    install(other, site)
    done = quant(recipe=recipe())
    assert done.returncode == 3
    assert "pass 'zero_small' is offered by quantcli-example 0.1.0 and by quantcli-twin 0.1.0" in done.stderr


@pytest.mark.parametrize("file", ["pyproject.toml", f"{MODULE}/passes.py", f"{MODULE}/calibrators.py"])
def test_the_page_shows_the_files_of_the_package(file):
    blocks = re.findall(r"```(?:toml|python)\n(.*?)```", (DOCS / "plugins.md").read_text("utf-8"), re.DOTALL)
    assert (PACKAGE / file).read_text("utf-8") in blocks


def test_the_recipe_of_the_page_runs(quant):
    (shown,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "plugins.md").read_text("utf-8"), re.DOTALL)
    done = quant(recipe=shown)
    assert done.returncode == 0, done.stderr
