"""Trains the bundled sample model and writes the folder calibration_samples; knows nothing of quantcli.

Torch and scikit-learn are development-only and in no extra of the package:

    python -m venv digits-env
    digits-env/bin/pip install torch==2.13.0 scikit-learn numpy onnx onnxruntime
    digits-env/bin/python benchmarks/train_digits.py

One thread, some ten seconds. The same machine and versions give the same bytes; another processor or another torch
may round differently and then give a slightly different model.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

SEED = 0
EPOCHS = 60
BATCH = 32
PEAK_RATE = 1e-2
LABEL_SMOOTHING = 0.1  # worth one point of accuracy in cross-validation; shifting the images was worth none
CHANNELS = 24  # of the residual block
FEATURES = 40  # of the last convolution
CALIBRATION_PER_CLASS = 10
FLOAT_TOP1_FLOOR = 0.97
SOURCE = "benchmarks/train_digits.py"
FOLDER = Path(__file__).resolve().parent.parent / "calibration_samples"

Images = npt.NDArray[np.float32]  # (N, 1, 8, 8), values 0..1
Labels = npt.NDArray[np.int64]  # (N,)

DATASET_YAML = """\
# 100 real samples of the training part of scikit-learn's handwritten digits, values 0..1
inputs:
  image: {npz: calibration.npz, array: image}
"""

README = """\
# The bundled sample: handwritten digits

A small convolutional classifier and real data for it. `quant convert` without a model uses this folder.

| File | Content |
|---|---|
| `digits.onnx` | float32 model, opset 17: `image` [batch, 1, 8, 8], values 0..1 -> `probabilities` [batch, 10] |
| `calibration.npz` | `image`: {calibration} samples of the training part, {per_class} of each class |
| `heldout.npz` | `image` and `label`: the {heldout} samples that training never saw |
| `dataset.yaml` | tells `quant` which array feeds which input |

Float top-1 on `heldout.npz`: **{top1:.2%}** ({correct} of {heldout}).

## Data: source and licence

*Optical Recognition of Handwritten Digits*, E. Alpaydin and C. Kaynak (1998), UCI Machine Learning Repository,
<https://doi.org/10.24432/C50P49>, distributed by UCI under
[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/). The images come from the copy of its test set (1797 images
of 8x8 pixels, values 0..16) that scikit-learn ships as `sklearn.datasets.load_digits`; scikit-learn's description of
the data names the source but no licence of its own. Changes made here: pixels divided by 16, stored as float32, and
two subsets taken. The two `.npz` files stay under CC BY 4.0; the rest of the folder has the licence of the project.

## How it was made

`{source}`, seed {seed}: a stratified third is held out; the other two thirds
({train} samples) train the model for {epochs} epochs. No choice was made on the held-out third: settings were compared
by cross-validation inside the training part. The split is random, so the same writers are in both parts: a change of
top-1 tells what quantization costs, but its level says little about new hands.

The batch normalisations stay in the graph as nodes, as many exporters leave them. All nodes:
{nodes}.
"""


@dataclass(frozen=True, slots=True)
class Split:
    """Images with their labels."""

    image: Images
    label: Labels


class Digits(nn.Module):
    """A MobileNet-like residual block, a wider convolution and a linear classifier; gives logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(1, CHANNELS, kernel=3)
        self.depthwise = convolution(CHANNELS, CHANNELS, kernel=3, groups=CHANNELS)
        self.pointwise = convolution(CHANNELS, CHANNELS, kernel=1)
        self.features = convolution(CHANNELS, FEATURES, kernel=3)
        self.classifier = nn.Linear(FEATURES, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits, (N, 10); `nodes` below says the same in ONNX."""
        stem = functional.relu6(self.stem(image))  # (N, CHANNELS, 8, 8)
        branch = self.pointwise(functional.relu6(self.depthwise(stem)))
        block = functional.max_pool2d(functional.relu(stem + branch), 2)  # (N, CHANNELS, 4, 4)
        features = functional.relu(self.features(block))  # (N, FEATURES, 4, 4)
        return self.classifier(features.mean(dim=(2, 3)))


def convolution(inputs: int, outputs: int, *, kernel: int, groups: int = 1) -> nn.Sequential:
    """Return a convolution that keeps height and width, and its batch normalisation."""
    layer = nn.Sequential()
    layer.add_module("conv", nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False))
    layer.add_module("norm", nn.BatchNorm2d(outputs))
    return layer


def load_splits() -> tuple[Split, Split]:
    """Return the training two thirds and the held-out third, stratified."""
    images, labels = load_digits(return_X_y=True)
    scaled = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    parts = train_test_split(scaled, labels.astype(np.int64), test_size=1 / 3, stratify=labels, random_state=SEED)
    train_image, heldout_image, train_label, heldout_label = parts
    return Split(train_image, train_label), Split(heldout_image, heldout_label)


def train(split: Split) -> Digits:
    """Train with smoothed labels, Adam and one cycle of the learning rate."""
    torch.manual_seed(SEED)
    model = Digits()
    steps = EPOCHS * -(-len(split.label) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    for image, label in batches(split):
        optimizer.zero_grad()
        functional.cross_entropy(model(image), label, label_smoothing=LABEL_SMOOTHING).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def batches(split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of all epochs, each epoch in a new order."""
    image, label = torch.from_numpy(split.image), torch.from_numpy(split.label)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(label)).split(BATCH):
            yield image[chosen], label[chosen]


def to_onnx(model: Digits) -> onnx.ModelProto:
    """Return the checked ONNX model; initializers keep the names of the torch parameters."""
    weights = {name: value.numpy() for name, value in model.state_dict().items() if value.dtype == torch.float32}
    limits = {"relu6.min": np.float32(0), "relu6.max": np.float32(6)}
    graph = helper.make_graph(
        nodes(),
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights | limits).items()],
        doc_string="Classifies 8x8 images of handwritten digits; pixel values 0..1.",
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    proto.producer_name = "train_digits"
    helper.set_model_props(proto, {"source": SOURCE})
    onnx.checker.check_model(proto, full_check=True)
    return proto


def nodes() -> list[onnx.NodeProto]:
    """Return the graph of `Digits.forward`; every node has the name of the tensor it gives."""
    relu6 = ["relu6.min", "relu6.max"]
    return [
        *convolution_nodes("stem", "image", kernel=3),
        node("Clip", "stem.relu6", ["stem.norm", *relu6]),
        *convolution_nodes("depthwise", "stem.relu6", kernel=3, groups=CHANNELS),
        node("Clip", "depthwise.relu6", ["depthwise.norm", *relu6]),
        *convolution_nodes("pointwise", "depthwise.relu6", kernel=1),
        node("Add", "residual.add", ["stem.relu6", "pointwise.norm"]),
        node("Relu", "residual.relu", ["residual.add"]),
        node("MaxPool", "residual.pool", ["residual.relu"], kernel_shape=[2, 2], strides=[2, 2]),
        *convolution_nodes("features", "residual.pool", kernel=3),
        node("Relu", "features.relu", ["features.norm"]),
        node("GlobalAveragePool", "features.mean", ["features.relu"]),
        node("Flatten", "features.flat", ["features.mean"], axis=1),
        node("Gemm", "classifier", ["features.flat", "classifier.weight", "classifier.bias"], transB=1),
        node("Softmax", "probabilities", ["classifier"], axis=1),
    ]


def convolution_nodes(layer: str, source: str, *, kernel: int, groups: int = 1) -> list[onnx.NodeProto]:
    """Return the two nodes of one `convolution`."""
    conv, norm = f"{layer}.conv", f"{layer}.norm"
    statistics = [f"{norm}.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
    shape = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4}
    return [
        node("Conv", conv, [source, f"{conv}.weight"], group=groups, **shape),
        node("BatchNormalization", norm, [conv, *statistics], epsilon=1e-5),  # torch's default
    ]


def node(kind: str, name: str, inputs: list[str], **attributes: float | list[int]) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [name], name=name, **attributes)


def count_correct(proto: onnx.ModelProto, split: Split) -> int:
    """Count the samples whose most probable class is their label, by ONNX Runtime."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"image": split.image})
    return int((probabilities.argmax(axis=1) == split.label).sum())


def calibration_images(split: Split) -> Images:
    """Return the first samples of each class, in the order of the split."""
    chosen = [np.flatnonzero(split.label == digit)[:CALIBRATION_PER_CLASS] for digit in range(10)]
    return split.image[np.sort(np.concatenate(chosen))]


def write(folder: Path) -> None:
    """Train and write all files of the sample.

    Raises:
        SystemExit: The model is worse than the sample promises; nothing is written.
    """
    training, heldout = load_splits()
    proto = to_onnx(train(training))
    correct, total = count_correct(proto, heldout), len(heldout.label)
    if correct < FLOAT_TOP1_FLOOR * total:
        raise SystemExit(f"held-out top-1 is {correct / total:.2%}, expected at least {FLOAT_TOP1_FLOOR:.0%}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "digits.onnx").write_bytes(proto.SerializeToString(deterministic=True))
    np.savez_compressed(folder / "calibration.npz", image=calibration_images(training))
    np.savez_compressed(folder / "heldout.npz", image=heldout.image, label=heldout.label)
    (folder / "dataset.yaml").write_text(DATASET_YAML, encoding="utf-8")
    (folder / "README.md").write_text(readme(proto, len(training.label), correct, total), encoding="utf-8")
    print(f"held-out top-1 {correct / total:.2%} ({correct} of {total})")


def readme(proto: onnx.ModelProto, trained: int, correct: int, total: int) -> str:
    kinds = Counter(n.op_type for n in proto.graph.node)
    return README.format(
        calibration=10 * CALIBRATION_PER_CLASS,
        per_class=CALIBRATION_PER_CLASS,
        heldout=total,
        top1=correct / total,
        correct=correct,
        source=SOURCE,
        seed=SEED,
        train=trained,
        epochs=EPOCHS,
        nodes=", ".join(f"{count} {kind}" for kind, count in kinds.items()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the bundled sample model.")
    parser.add_argument(
        "folder", nargs="?", type=Path, default=FOLDER, help="where to write (default: the bundled one)"
    )
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    write(parser.parse_args().folder)


if __name__ == "__main__":
    main()
