"""Shell completion, as click asks for it through the environment."""

from __future__ import annotations

import os
import subprocess
import sys

from quantcli import modes
from quantcli.cli import COMMANDS


def complete(instruction: str, words: str = "quant ", position: int = 1) -> str:
    environment = {**os.environ, "_QUANT_COMPLETE": instruction, "COMP_WORDS": words, "COMP_CWORD": str(position)}
    command = [sys.executable, "-c", "from quantcli.cli import main; main()"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment)  # noqa: S603 - ours
    return done.stdout


def test_the_script_is_produced():
    assert "_QUANT_COMPLETE=zsh_complete" in complete("zsh_source")


def test_commands_complete():
    assert complete("bash_complete").split() == [f"plain,{name}" for name in COMMANDS]


def test_options_complete():
    assert "plain,--representative-dataset" in complete("bash_complete", "quant convert --rep", 2)


def test_mode_completes_from_the_folder_of_modes():
    shown = complete("bash_complete", "quant convert --mode ", 3).split()
    assert shown == [f"plain,{name}" for name in (*modes.names(), "all")]
