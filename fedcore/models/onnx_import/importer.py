"""From an ONNX file to a graph and its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyfleet.fedcore.arrays import Params
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.foreign.shown import printable
from tinyfleet.fedcore.models.described.blocks import Blocks, blocks_of
from tinyfleet.fedcore.models.described.document import check_graph, check_name
from tinyfleet.fedcore.models.graph import INPUT, Graph, Node
from tinyfleet.fedcore.models.onnx_import.call import ImportCall
from tinyfleet.fedcore.models.onnx_import.constants import folded
from tinyfleet.fedcore.models.onnx_import.file import OnnxFile, OnnxOperator, read_onnx
from tinyfleet.fedcore.models.onnx_import.operators import OPERATORS, WAYS_OUT
from tinyfleet.fedcore.models.onnx_import.translation import Translation, refuse
from tinyfleet.fedcore.models.onnx_import.value import Value

# Of the last operator: training has it in its loss.
ENDINGS = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})
_CHANNELS_LAST = {3: (0, 2, 1), 4: (0, 3, 1, 2)}


@dataclass(frozen=True, slots=True)
class Imported:
    """``channels_last``: the file takes its input so, the graph channels first. ``ending``: see ``ENDINGS``."""

    graph: Graph
    params: Params
    producer: str
    batch: int  # 0: any
    channels_last: bool
    ending: str


def import_onnx(path: Path, name: str, input_shape: tuple[int, ...] = (), blocks: Blocks = ()) -> Imported:
    """The model in a file; ``input_shape``, channels first, says what the file leaves open.

    Raises ``ConfigError``, which names file, node and operator, and the nearest way out.
    """
    check_name(name, "model.name")
    file = read_onnx(path)
    try:
        return _translated(file, name, input_shape, blocks)
    except ConfigError as error:
        raise ConfigError(f"{printable(str(path), 300)}: {error}") from None


def _translated(file: OnnxFile, name: str, input_shape: tuple[int, ...], blocks: Blocks) -> Imported:
    operators, ending = _without_ending(file)
    turned = _takes_channels_last(file)
    given = _given(file, input_shape, channels_last=turned)
    graph = Translation(file, given)
    output = file.output if not ending else ending.inputs[0]
    for operator in operators:
        _translate(operator, graph)
    last = graph.values.get(output)
    if last is None or last.layer == INPUT:
        raise ConfigError(f"output {printable(repr(output), 80)} is not computed from the input")
    if not last.plain or len(last.shape) != 1:
        raise ConfigError(f"its output is {list(last.sides)}; end with a number a class: a linear layer, or a pool")
    nodes = _needed(graph, last.layer)
    weighted = Graph(name, given.shape, last.shape[0], nodes, ()).weighted
    chosen = blocks or blocks_of(weighted, graph.shapes)
    built = Graph(name, given.shape, last.shape[0], nodes, chosen)
    check_graph(built)
    params = {key: graph.params[key] for key in built.params}
    return Imported(built, params, file.producer, file.batch, turned, "" if ending is None else ending.kind)


def _translate(operator: OnnxOperator, graph: Translation) -> None:
    if operator.kind == "Shape" and operator.inputs[:1] and (value := graph.values.get(operator.inputs[0])):
        first, end = operator.attributes.get("start", 0), operator.attributes.get("end")
        graph.constants[operator.outputs[0]] = np.array(value.sides[first:end], np.int64)  # the batch as -1
    elif any(name in graph.values for name in operator.inputs):
        translate = OPERATORS.get(operator.kind)
        if translate is None:
            refuse(operator, "is not read", WAYS_OUT.get(operator.kind, f"these are: {', '.join(OPERATORS)}"))
        found = translate(ImportCall(operator, graph))
        values = found if isinstance(found, list) else [found]
        for name, value in zip(operator.outputs, values, strict=False):
            graph.values[name] = value
    else:
        _fold(operator, graph)


def _fold(operator: OnnxOperator, graph: Translation) -> None:
    missing = [name for name in operator.inputs if name and name not in graph.constants]
    if missing:
        refuse(operator, f"reads {missing[0]!r}, which nothing gives", "the file is damaged: export it again")
    constant = folded(operator, [graph.constants[name] for name in operator.inputs if name])
    if constant is None or not operator.outputs:
        refuse(operator, "computes with constants what is not read", "simplify the model before: onnxsim, say")
    graph.constants[operator.outputs[0]] = constant


def _without_ending(file: OnnxFile) -> tuple[tuple[OnnxOperator, ...], OnnxOperator | None]:
    for operator in file.operators:
        if operator.outputs[:1] == (file.output,) and operator.kind in ENDINGS and operator.inputs:
            return tuple(other for other in file.operators if other is not operator), operator
    return file.operators, None


def _takes_channels_last(file: OnnxFile) -> bool:
    """Whether all that happens to the input is that its channels are put first."""
    order = _CHANNELS_LAST.get(len(file.input_shape) + 1)
    readers = [operator for operator in file.operators if file.input in operator.inputs]
    if order is None or not readers:
        return False
    for reader in readers:
        if reader.kind == "Transpose" and reader.attributes.get("perm") == order:
            continue
        if reader.kind != "Reshape" or len(reader.inputs) < 2:
            return False
        sides = file.constants.get(reader.inputs[1])
        # With one channel a reshape does the same.
        shape = file.input_shape
        turned = (shape[-1], *shape[:-1])
        if shape[-1] != 1 or sides is None or tuple(int(s) for s in sides.ravel()[1:]) != turned:
            return False
    return True


def _given(file: OnnxFile, input_shape: tuple[int, ...], *, channels_last: bool) -> Value:
    shape = file.input_shape
    if channels_last:
        shape = (shape[-1], *shape[:-1])
    if input_shape:
        fits = len(shape) == len(input_shape) and all(
            side in (0, want) for side, want in zip(shape, input_shape, strict=True)
        )
        if not fits:
            raise ConfigError(
                f"its input is {list(shape)}, channels first (0: open); model.input_shape says {list(input_shape)}"
            )
        shape = input_shape
    if min(shape) < 1:
        raise ConfigError(f"its input is {list(shape)}, which leaves sides open; say them: model.input_shape")
    axes = (0, *range(2, len(shape) + 1), 1) if channels_last else tuple(range(len(shape) + 1))
    return Value(INPUT, shape, axes)


def _needed(graph: Translation, output: str) -> tuple[Node, ...]:
    """The layers that the output depends on; it comes last."""
    wanted, waiting = set(), [output]
    while waiting:
        name = waiting.pop()
        if name not in wanted and name != INPUT:
            wanted.add(name)
            waiting += graph.nodes[name].inputs
    nodes = [node for name, node in graph.nodes.items() if name in wanted and name != output]
    return (*nodes, graph.nodes[output])
