"""Names as exporters and people give them: numbers, slashes, spaces, other scripts, our own suffixes, none at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

STYLES = {  # {0} is a kind, {1} a number
    "plain": ["{0}{1}"],
    "numbers": ["{1}"],
    "paths": ["/model/layer.{1}/{0}_output_0", "model/layer_{1}/{0}:0", "/{0}/{1}/"],
    "spaces": ["{0} {1}", " {0}{1}", "{0}:{1}", "{0}\t{1}"],
    "scripts": ["слой{1}", "張量{1}", "é{1}", "{0}-{1}→"],
    "ours": [
        "{0}{1}_quantized", "{0}{1}_scale", "{0}{1}_zero_point", "{0}{1}__folded", "{0}_int8",
        "{0}{1}_DequantizeLinear", "{0}_quantized_{1}", "{0}{1}_1", "{0}__{1}", "{0}{1}_transposed", "{0}{1}_bias",
        "{0}{1}_slope", "quant_{0}{1}",
    ],
    "odd": ['{0}"{1}', "{0}\\{1}", "{0}[{1}]", "%{0}.{1}", "{0}{{{1}}}", "{0}*{1}?", "re:{0}{1}"],
}  # fmt: skip


@dataclass
class Names:
    """Gives out names that no two tensors share; nodes may share theirs, or have none.

    Attributes:
        random: Chooses among the patterns.
        style: Key of ``STYLES``.
        nodes: ``own``, ``empty``, ``same``, ``tensor`` (that of the first result) or ``mixed``.
    """

    random: Random
    style: str
    nodes: str
    given: int = 0
    taken: frozenset[str] = frozenset()

    def tensor(self, kind: str) -> str:
        while True:
            self.given += 1
            base = self.random.choice(STYLES[self.style]).format(kind, self.given)
            if self.style == "ours" and self.taken and self.random.random() < 0.3:
                known = self.random.choice(sorted(self.taken))
                base = known + self.random.choice(["_quantized", "_scale", "_zero_point", "_1", "_dequantized"])
            if base not in self.taken:
                self.taken |= {base}
                return base

    def node(self, result: str) -> str:
        kind = self.nodes if self.nodes != "mixed" else self.random.choice(["own", "empty", "same", "tensor"])
        return {"own": f"node {self.given}", "empty": "", "same": "node", "tensor": result}[kind]
