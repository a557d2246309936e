"""Converts a case in every form and complains: a clear refusal and no file, or a file of which all laws hold."""

from __future__ import annotations

import re
import tempfile
import warnings
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from conversion import NEAREST, Converted
from properties import LAWS

from quantcli import api, modes
from quantcli.errors import QuantError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from random_models import Case

EXIT_CODES = {1, 2, 3, 4}  # 70 says that it is a bug
AGAIN = 8  # one conversion in so many is done twice
TOGETHER = 10  # of one case in so many, all modes are converted together


@dataclass(frozen=True)
class Form:
    """A way to convert: a mode and what else is asked."""

    mode: str
    asked: dict[str, object]
    settings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join([self.mode, *(f"{k}={v}" for k, v in self.asked.items()), *self.settings])


@dataclass(frozen=True)
class Complaint:
    """A law that a conversion breaks."""

    form: Form
    law: str
    detail: str

    @property
    def kind(self) -> str:
        """The complaint without the names and numbers of one model."""
        bare = re.sub(r"'[^']*'|\"[^\"]*\"", "_", self.detail)
        law = re.sub(r" \(optimize=\w+\)", "", self.law)
        return f"{law}: {re.sub(r'[-+]?[0-9]+([.][0-9]+)?(e[-+]?[0-9]+)?', '#', bare)[:160]}"

    def __str__(self) -> str:
        return f"[{self.form}] {self.law}: {self.detail}"


@cache
def forms() -> list[Form]:
    """Return every mode, and for modes with integers each of their formats with operators that stay float."""
    found = [Form(name, {}) for name in modes.names()]
    integer = [n for n in modes.names() if modes.resolve(n).needs_data]
    for name in integer:
        recipe = modes.resolve(name)
        if recipe.fallback == "refuse":
            found += [Form(name, {"fallback": "float"}), Form(name, {"fallback": "float"}, nearest(recipe))]
        other = "integer" if recipe.format == "qdq" else "qdq"
        found.append(Form(name, {"fallback": "float", "format": other}, nearest(recipe)))
    return found


def nearest(recipe: object) -> tuple[str, ...]:
    """Return settings that leave weights where rounding puts them, for what the recipe would otherwise do."""
    return tuple(s for s in NEAREST if recipe.enabled(s[len("passes.") : -len("=off")]))


@dataclass
class Tally:
    """What happened, counted by the runs."""

    converted: int = 0
    refused: int = 0
    reasons: dict[str, int] | None = None


def complaints(case: Case, form: Form, tally: Tally | None = None) -> list[Complaint]:
    """Return the laws that the conversion of a case breaks."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "out" / "quantized.onnx"
        target.parent.mkdir()
        onnx.save(case.model, source)
        asked = api.Options(settings=form.settings, threads=1, **form.asked)
        call = partial(api.convert, source, mode=form.mode, representative_dataset=case.feeds, options=asked)
        try:
            with warnings.catch_warnings(action="error"):
                result = call(output=target)
        except QuantError as error:
            _count(tally, error)
            return [Complaint(form, *c) for c in _refusal(error, target.parent)]
        except Exception as error:  # noqa: BLE001 - that none escapes is a law
            return [Complaint(form, "no other exception escapes", f"{type(error).__name__}: {error}")]
        _count(tally, None)
        converted = Converted(result, case.model, onnx.load(target), case.feeds)
        found = [Complaint(form, *c) for law in LAWS for c in _applied(law, converted)]
        if (case.seed + forms().index(form)) % AGAIN == 0:
            written = _contents(target.parent)
            call(output=target)
            found += [Complaint(form, *c) for c in _compared(written, _contents(target.parent), "twice")]
        return found


def together(case: Case) -> list[Complaint]:
    """Return what `convert_all` writes otherwise than `convert` does."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        source, everything = Path(folder) / "float.onnx", Path(folder) / "all"
        everything.mkdir()
        onnx.save(case.model, source)
        asked = api.Options(threads=1)
        try:
            results = api.convert_all(source, representative_dataset=case.feeds, output=everything, options=asked)
        except QuantError as error:
            return [Complaint(Form("all modes", {}), *c) for c in _refusal(error, everything)]
        except Exception as error:  # noqa: BLE001 - that none escapes is a law
            return [Complaint(Form("all modes", {}), "no other exception escapes", f"{type(error).__name__}: {error}")]
        for mode, result in results.items():
            alone = _alone(source, mode, case, Path(folder))
            if isinstance(result, QuantError):
                same = isinstance(alone, QuantError) and str(alone) == str(result)
                if not same:
                    found.append(Complaint(Form(mode, {}), "together as alone", f"together: {result}; alone: {alone}"))
            elif isinstance(alone, QuantError):
                found.append(Complaint(Form(mode, {}), "together as alone", f"only alone: {alone}"))
            else:
                mine = {n: b for n, b in _contents(everything).items() if n.startswith(f"float.{mode}.")}
                found += [Complaint(Form(mode, {}), *c) for c in _compared(mine, alone, "together and alone")]
    return found


def _alone(source: Path, mode: str, case: Case, folder: Path) -> dict[str, bytes] | QuantError:
    target = folder / mode / f"float.{mode}.onnx"
    target.parent.mkdir()
    try:
        api.convert(source, mode=mode, representative_dataset=case.feeds, output=target, options=api.Options(threads=1))
    except QuantError as error:
        return error
    return _contents(target.parent)


def _contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def _compared(first: dict[str, bytes], second: dict[str, bytes], how: str) -> Iterator[tuple[str, str]]:
    other = [n for n in {**first, **second} if first.get(n) != second.get(n)]
    if other:
        yield f"converted {how}, the bytes are the same", f"not those of {other}"


def _applied(law: object, converted: Converted) -> list[tuple[str, str]]:
    try:
        with np.errstate(all="ignore"):
            return list(law(converted))
    except Exception as error:  # noqa: BLE001 - most of all: the written model does not run
        return [(f"{law.__name__} can be checked", f"{type(error).__name__}: {str(error)[:600]}")]


def _count(tally: Tally | None, error: QuantError | None) -> None:
    if tally is None:
        return
    tally.converted += error is None
    tally.refused += error is not None
    if error is not None:
        kind = Complaint(Form("", {}), type(error).__name__, error.message).kind
        tally.reasons = tally.reasons or {}
        tally.reasons[kind] = tally.reasons.get(kind, 0) + 1


def _refusal(error: QuantError, folder: Path) -> Iterator[tuple[str, str]]:
    if error.exit_code not in EXIT_CODES:
        yield f"exit code {error.exit_code} is for bugs", error.message
    if not error.message.strip() or "\n" in error.message:
        yield "a refusal is one line", repr(error.message)
    if not (error.hint or getattr(error, "reasons", ())):
        yield "a refusal says what to do", error.message
    left = sorted(p.name for p in folder.iterdir())
    if left:
        yield "a refusal leaves no file", str(left)


def broken(case: Case, chosen: Sequence[Form], tally: Tally | None = None) -> list[Complaint]:
    """Return the complaints of several forms about one case, and now and then those of all modes together."""
    found = [c for form in chosen for c in complaints(case, form, tally)]
    return [*found, *together(case)] if case.seed % TOGETHER == 0 else found
