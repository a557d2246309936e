"""Models with random weights in the shapes of well-known ones, and images for them: speed needs no training.

Knows nothing of quantcli. Weights are drawn so that activations keep their size from layer to layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path

OPSET = 17
INPUT = "image"
CLASSES = 100
# expansion, channels, blocks, stride: table 2 of the MobileNetV2 paper
MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
RESNET_18 = ((1, 1), (2, 2), (4, 2), (8, 2))  # width in units of the first stage, stride; two blocks each

DATASET = """\
inputs:
  image: {npz: images.npz, scale: 0.00784313725490196, mean: 1, dtype: float32, from_layout: NHWC, layout: NCHW}
"""


@dataclass(slots=True)
class Stack:
    """A graph under construction: the name and the channels of its last tensor, and what leads there."""

    channels: int
    last: str = INPUT
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add(self, op: str, *others: str, **attributes: int | float | list[int]) -> str:
        """Append an operator on the last tensor."""
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, [self.last, *others], [name], name=name, **attributes))
        self.last = name
        return name

    def conv(self, channels: int, kernel: int, *, stride: int = 1, depthwise: bool = False, gain: float = 2.0) -> None:
        """Append a convolution with bias; ``gain`` 2 makes up for a Relu behind it."""
        inner = 1 if depthwise else self.channels
        deviation = np.sqrt(gain / (inner * kernel * kernel))
        weight = self.constant(self.rng.normal(0, deviation, (channels, inner, kernel, kernel)))
        bias = self.constant(self.rng.normal(0, 0.05, channels))
        group = self.channels if depthwise else 1
        self.add("Conv", weight, bias, strides=[stride] * 2, pads=[kernel // 2] * 4, group=group)
        self.channels = channels

    def constant(self, values: np.ndarray) -> str:
        """Add a float32 constant and return its name."""
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def classifier(self, size: int) -> onnx.ModelProto:
        """Close the graph with pooling and a fully connected layer, and return the model."""
        self.add("GlobalAveragePool")
        self.add("Flatten")
        weight = self.constant(self.rng.normal(0, np.sqrt(1 / self.channels), (CLASSES, self.channels)))
        self.add("Gemm", weight, self.constant(np.zeros(CLASSES)), transB=1)
        graph = helper.make_graph(
            self.nodes,
            "generated",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", 3, size, size])],
            [helper.make_tensor_value_info(self.last, TensorProto.FLOAT, ["batch", CLASSES])],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model


def mobilenet_v2(size: int) -> onnx.ModelProto:
    """Return inverted residual blocks with Relu6."""
    s = Stack(3)
    limits = (s.constant(np.float32(0)), s.constant(np.float32(6)))
    s.conv(32, 3, stride=2)
    s.add("Clip", *limits)
    for expansion, channels, blocks, first_stride in MOBILENET_V2:
        for block in range(blocks):
            before, stride = (s.last, s.channels), first_stride if block == 0 else 1
            if expansion > 1:
                s.conv(s.channels * expansion, 1)
                s.add("Clip", *limits)
            s.conv(s.channels, 3, stride=stride, depthwise=True)
            s.add("Clip", *limits)
            s.conv(channels, 1, gain=1.0)
            if stride == 1 and before[1] == channels:
                s.add("Add", before[0])
    s.conv(1280, 1)
    s.add("Clip", *limits)
    return s.classifier(size)


def resnet_18(size: int, *, width: int) -> onnx.ModelProto:
    """Return basic residual blocks with Relu."""
    s = Stack(3)
    s.conv(width, 7, stride=2)
    s.add("Relu")
    s.add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for factor, first_stride in RESNET_18:
        for stride in (first_stride, 1):
            _basic_block(s, width * factor, stride)
    return s.classifier(size)


def _basic_block(s: Stack, channels: int, stride: int) -> None:
    entry, entered = s.last, s.channels
    s.conv(channels, 3, stride=stride)
    s.add("Relu")
    s.conv(channels, 3, gain=0.5)
    branch = s.last
    if stride != 1 or entered != channels:
        s.last, s.channels = entry, entered
        s.conv(channels, 1, stride=stride, gain=1.0)
        entry = s.last
    s.last = branch
    s.add("Add", entry)
    s.add("Relu")


def write(folder: Path, model: onnx.ModelProto, *, size: int, samples: int) -> tuple[Path, Path]:
    """Write a model with its images and dataset spec; return the model and the spec."""
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    np.savez(folder / "images.npz", image=_images(size, samples))
    (folder / "dataset.yaml").write_text(DATASET, "utf-8")
    return folder / "model.onnx", folder / "dataset.yaml"


def _images(size: int, samples: int) -> np.ndarray:
    """Return smooth random images, uint8 (N, H, W, 3): coarse noise, enlarged, with a little fine noise."""
    rng = np.random.default_rng(1)
    coarse = rng.uniform(0, 255, (samples, 8, 8, 3))
    repeats = -(-size // 8)
    smooth = coarse.repeat(repeats, 1).repeat(repeats, 2)[:, :size, :size]
    fine = rng.normal(0, 12, (size, size, 3))
    return np.clip(smooth + fine, 0, 255).astype(np.uint8)
