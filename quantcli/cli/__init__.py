"""The command line: names the commands and where they live. Imports click and nothing heavier, so that help is quick.

A command is a module with a ``command`` and one line here.
"""

from __future__ import annotations

import sys
from typing import Final

import click

from quantcli import __version__
from quantcli.cli import boundary
from quantcli.cli.lazy import LazyGroup

COMMANDS: Final = {
    "convert": ("quantcli.cli.convert", "Convert a float ONNX model into a verified integer one."),
    "calibrate": ("quantcli.cli.calibrate", "Save what real samples show of a model, for any number of conversions."),
    "data": ("quantcli.cli.data", "Show what a representative dataset feeds, and what is suspicious about it."),
    "advise": ("quantcli.cli.advise", "Recommend a mode for a model, with reasons and what it would lose."),
    "analyze": ("quantcli.cli.analyze", "Compare ways to quantize a model, side by side."),
    "modes": ("quantcli.cli.modes", "List the modes, or show the recipe of one."),
    "cache": ("quantcli.cli.cache", "Show or empty the cache of what samples showed."),
}
HELP: Final = """Convert float ONNX models into integer ones that are verified before they are written.

\b
quant convert --mode int8-only                            the bundled sample
quant convert MODEL --representative-dataset SPEC.yaml    your model
quant advise MODEL                                        which mode, and why
"""

quant: Final = LazyGroup(
    "quant",
    modules=COMMANDS,
    text=HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
click.version_option(__version__, prog_name="quant", message="%(prog)s %(version)s")(quant)


def main() -> None:
    """Run the command line and leave with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names in models may hold what the locale cannot say
    sys.exit(boundary.run(quant, sys.argv[1:]))
