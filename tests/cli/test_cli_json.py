"""With --json, stdout is exactly one JSON document, whatever happens."""

from __future__ import annotations

import pytest

from quantcli import api, errors


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (["--min-sqnr", "200"], 1, "quality"),
        (["--mode", "nope"], 2, "usage"),
        (["--smaples", "3"], 2, "usage"),
        (["-o", "nowhere/x.onnx"], 2, "output"),
        (["no.onnx", "--random-data", "2"], 3, "model"),
        (["--representative-dataset", "no.yaml"], 3, "dataset"),
        (["--recipe", "no.yaml"], 3, "recipe"),
        (["--float", "op:Softmax"], 4, "unsupported"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_failure_is_one_document(convert, arguments, code, kind):
    done = convert("--json", *arguments)
    error = done.document["error"]
    assert (done.code, error["exit_code"], error["kind"]) == (code, code, kind)
    assert sorted(error) == ["exit_code", "hint", "kind", "message", "reasons"]


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [(ZeroDivisionError("x"), 70, "internal"), (KeyboardInterrupt(), 130, "interrupted")],
    ids=["bug", "interrupt"],
)
def test_what_is_no_error_of_the_user_is_one_document_too(convert, monkeypatch, error, code, kind):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(api, "convert", fail)
    done = convert("--json")
    assert (done.code, done.document["error"]["kind"]) == (code, kind)


def test_every_reason_is_in_the_document(convert, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise errors.UnsupportedError("no", reasons=["a", "b"])

    monkeypatch.setattr(api, "convert", fail)
    assert convert("--json").document["error"]["reasons"] == ["a", "b"]


def test_success_is_the_report_with_places_and_seconds(convert):
    done = convert("--json")
    assert done.code == 0
    assert done.document["written"]["model"] == "digits.int8-only.onnx"
    assert done.document["verification"]["outputs"]
    assert "verify" in done.document["seconds"]


def test_dry_run_is_the_plan_and_writes_nothing(convert):
    done = convert("--json", "--dry-run")
    assert (done.code, done.document["written"], done.files) == (0, {}, [])
    assert done.document["ledger"]


def test_quiet_leaves_the_document(convert):
    done = convert("--json", "--quiet")
    assert (done.err, done.document["mode"]) == ("", "int8-only")
