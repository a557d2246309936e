"""Brings a model to the opset that quantization needs, with ONNX's version converter, never by editing a number."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

import onnx
import onnx_ir as ir
from onnx import version_converter
from onnx_ir.passes import common as ir_passes

from quantcli import custom_ops, graph, serialization
from quantcli.errors import ModelError

if TYPE_CHECKING:
    from quantcli.state import State, Tick


_ASYMMETRIC: Final = 10  # whose Resize knew one way of sampling; the converter leaves that of later versions
_LAST_AXIS: Final = 13  # before it, the axes from ``axis`` on were one


@dataclass(frozen=True, slots=True)
class ConvertOpset:
    """Converts models below opset ``minimum`` to it; others stay as they are.

    13 brought QuantizeLinear per axis, 14 the uint8 Add of an int8 boundary, 21 QuantizeLinear to 16 bits: ``qdq`` is
    the version asked for where the recipe's format is that. 21 brought integers of 4 bits, too: ``four_bits`` is the
    version asked for where weights are to have as many.
    """

    minimum: int = 14
    qdq: int = 0
    four_bits: int = 0
    whole_model: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Convert the prepared model."""
        del tick
        version, wanted = graph.opset(state.model), self.minimum
        if state.recipe.format == "qdq":
            wanted = max(wanted, self.qdq)
        if state.recipe.four_bits:
            wanted = max(wanted, self.four_bits)
        if version >= wanted:
            return state
        model = _converted(state.model, wanted)
        _restore(state.model, model)
        if version == _ASYMMETRIC:
            _sample_as_before(state.model, model)
        if version < _LAST_AXIS <= wanted:
            _keep_rows(model)
        graph.name_everything(model)
        return replace(state, model=model).noted(notes=(f"opset converted from {version} to {wanted}",))


def _converted(model: ir.Model, target: int) -> ir.Model:
    for node in model.graph.all_nodes():
        if graph.is_onnx(node) and not onnx.defs.has(node.op_type):
            raise ModelError(
                f"node {graph.node_name(node)!r} is a {node.op_type}, which no ONNX opset defines any more: "
                f"the model's opset {graph.opset(model)} cannot be converted to {target}",
                hint="export the model again with opset 13 or newer",
            )
    flat = model.clone()
    ir_passes.InlinePass()(flat)  # the converter knows no functions of the model's own
    proto, away = _proto(flat)
    if proto.ir_version < 4:  # before IR 4 the converter wants initializers among the inputs
        known = {i.name for i in proto.graph.input}
        proto.graph.input.extend(
            onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims)
            for t in proto.graph.initializer
            if t.name not in known
        )
    try:
        converted = version_converter.convert_version(proto, target)
    except Exception as error:
        first = str(error).strip().splitlines()[-1]
        raise ModelError(
            f"the model's opset {graph.opset(model)} cannot be converted to {target}: {first[:300]}",
            hint="export the model again with opset 13 or newer",
        ) from error
    result = ir.from_proto(converted)
    result.ir_version = max(result.ir_version, 8)
    custom_ops.carry(model, result)
    for value, placeholder in graph.external_constants(result):
        value.const_value = away[str(placeholder.location)]
    return result


def _proto(model: ir.Model) -> tuple[onnx.ModelProto, dict[str, ir.TensorProtocol]]:
    """Return a model for the converter, which copies all that it is given, and what was left out of it: its weights.

    A placeholder says where its tensor is to be found, because bodies may have constants of the same name.
    """
    away: dict[str, ir.TensorProtocol] = {}
    stand_ins: dict[ir.Value, ir.TensorProtocol] = {}
    for value, tensor in serialization.constants(model):
        if tensor.nbytes >= serialization.SMALLEST_APART and tensor.dtype != ir.DataType.STRING:
            place = str(len(away))
            away[place] = tensor
            stand_ins[value] = serialization.elsewhere(graph.name_of(value), tensor, place)
        elif isinstance(tensor, ir.ExternalTensor):
            stand_ins[value] = ir.Tensor(tensor.numpy(), name=value.name)  # the converter cannot read its file
    with serialization.standing_in(stand_ins):
        return ir.to_proto(model), away


def _restore(before: ir.Model, after: ir.Model) -> None:
    """Give what was an Upsample its names and its sampling back; the converter leaves a Resize with neither."""
    kept = {o.name for node in before.graph for o in node.outputs}
    old = [n for n in before.graph if graph.is_onnx(n, "Upsample")]
    new = [
        n for n in after.graph if graph.is_onnx(n, "Resize") and (n.name not in kept or n.outputs[0].name not in kept)
    ]
    if len(old) != len(new):
        return
    for origin, node in zip(old, new, strict=True):
        node.name, node.outputs[0].name = origin.name, origin.outputs[0].name
        for name, value in (("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", "floor")):
            node.attributes[name] = ir.AttrString(name, value)


def _sample_as_before(before: ir.Model, after: ir.Model) -> None:
    """Let each Resize of opset 10 sample as it did: no offset of half a pixel, nearest is the one below."""
    old = {n.name for n in before.graph.all_nodes() if graph.is_onnx(n, "Resize")}
    for node in after.graph.all_nodes():
        if graph.is_onnx(node, "Resize") and node.name in old:
            for name, value in (("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", "floor")):
                node.attributes[name] = ir.AttrString(name, value)


def _keep_rows(model: ir.Model) -> None:
    """Let each Hardmax of before opset 13 still see one row in all its axes from ``axis`` on: no adapter does."""
    names = graph.Names(model)
    for node in [n for n in model.graph.all_nodes() if graph.is_onnx(n, "Hardmax")]:
        source, result = node.inputs[0], node.outputs[0]
        flat = ir.node("Flatten", [source], {"axis": graph.int_attribute(node, "axis", 1)})
        shape = ir.node("Shape", [source])
        back = ir.node("Reshape", [result, shape.outputs[0]])
        for made, what in ((flat, "rows"), (shape, "shape"), (back, "back")):
            made.name = names.new(f"{node.name}_{what}")
            made.outputs[0].name = names.new(f"{graph.name_of(result)}_{what}")
        graph.replace_value(result, back.outputs[0])
        back.replace_input_with(0, result)
        node.replace_input_with(0, flat.outputs[0])
        node.attributes["axis"] = ir.AttrInt64("axis", -1)
        node.prepend([flat, shape])
        node.append(back)
