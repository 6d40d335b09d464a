"""TFLite files from the inference layers."""

from __future__ import annotations

from tinyfleet.export.formats.tflite.lowering import Lowering, channels_last
from tinyfleet.export.formats.tflite.operators import OPERATORS, Operator, TfliteCall
from tinyfleet.export.formats.tflite.precision import Float, Precision
from tinyfleet.export.inference_graph import Inference, Layer
from tinyfleet.fedcore.models.graph import INPUT
from tinyfleet.fedcore.models.layers.table import known


def write_tflite(model: Inference, precision: Precision | None = None) -> bytes:
    """The model as a TFLite file; float32 unless a precision is given.

    Raises ``UnsupportedLayer``, or ``ExportError`` for a layer that TFLite cannot express.
    """
    lowering = Lowering(model, precision or Float())
    file, layers = lowering.file, model.layers
    operators = {layer.name: operator_of(layer) for layer in layers}
    readers = model.readers()
    image = channels_last(model.input_shape)
    entry = file.activation(INPUT, image)
    lowering.tensors[INPUT] = lowering.precision.enter(file, entry, image)
    fused: set[str] = set()
    for layer in layers:
        if layer.name in fused:
            continue
        activation = None
        if operators[layer.name].fuses and readers[layer.name] == 1:
            activation = next((n for n in layers if n.inputs == (layer.name,) and operators[n.name].fused), None)
        name = activation.name if activation else layer.name
        fused.add(name)
        output = lowering.activation(name)
        word = operators[name].fused if activation else "NONE"
        inputs = [lowering.tensors[source] for source in layer.inputs]
        code = getattr(file.schema.ActivationFunctionType, word)
        operators[layer.name].write(TfliteCall(lowering, layer, inputs, output, code))
        lowering.tensors[layer.name] = lowering.tensors[name] = output
    logits = lowering.precision.leave(file, lowering.tensors[model.output], model.classes)
    return file.to_bytes([entry], [logits])


def operator_of(layer: Layer) -> Operator:
    """How a layer is written. Raises ``UnsupportedLayer``."""
    return known(OPERATORS.get(layer.op), layer.node, "the TFLite writer")
