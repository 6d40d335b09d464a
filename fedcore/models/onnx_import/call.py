"""One operator on its way into the graph: its inputs, its attributes, and what most of them are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from tinyfleet.fedcore.arrays import AnyArray, FloatArray
from tinyfleet.fedcore.models.onnx_import.file import OnnxOperator
from tinyfleet.fedcore.models.onnx_import.translation import Translation, refuse
from tinyfleet.fedcore.models.onnx_import.value import Value

Pads = tuple[tuple[int, int], ...]
"""(before, behind) of each spatial axis of the tensor."""


@dataclass(frozen=True, slots=True)
class ImportCall:
    """``operator`` of the file, with the graph so far."""

    operator: OnnxOperator
    graph: Translation

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.operator.inputs

    def attribute(self, name: str, usual: Any = None) -> Any:
        """Of the operator, of the type that ``usual`` has."""
        value = self.operator.attributes.get(name)
        if value is None:
            return usual
        if usual is not None and not isinstance(value, type(usual)):
            refuse(self.operator, f"its {name} is {value!r}", "the file is damaged: export it again")
        return value

    def value(self, index: int = 0) -> Value:
        """An input that is no constant. Raises ``ConfigError``."""
        name = self.inputs[index] if index < len(self.inputs) else ""
        found = self.graph.values.get(name)
        if found is None:
            what = "a constant" if name in self.graph.constants else "nothing that was computed before"
            refuse(self.operator, f"input {index} is {what}", "export the model for inference, and in one piece")
        return found

    def first(self) -> Value:
        """The first input, channels first and without anything pending but padding. Raises ``ConfigError``."""
        value = self.value()
        if not Value(value.layer, value.shape, value.axes, value.order, (), value.groups).channels_first:
            self.refuse(
                "its input is turned, flattened or split", "keep channels in the place that the layer reads"
            )
        return value

    def constant(self, index: int) -> AnyArray | None:
        """An input that is a constant; None where it is left out. Raises ``ConfigError``."""
        if index >= len(self.inputs) or not self.inputs[index]:
            return None
        found = self.graph.constants.get(self.inputs[index])
        if found is None:
            self.refuse(f"input {index} is computed", "only weights and settings that are constants are read")
        return found

    def floats(self, index: int) -> FloatArray | None:
        """Likewise, as float32."""
        found = self.constant(index)
        if found is not None and found.dtype != np.float32:
            self.refuse(f"input {index} is of {found.dtype}", "export the model in float32, not quantised")
        return found

    def weight(self, index: int, dimensions: int) -> FloatArray:
        """A weight of so many dimensions. Raises ``ConfigError``."""
        found = self.floats(index)
        if found is None or found.ndim != dimensions or not found.size:
            self.refuse(f"input {index} is no weight of {dimensions} dimensions", "export the model again")
        return found

    def integers(self, index: int) -> tuple[int, ...] | None:
        """A constant of whole numbers, as a flat tuple."""
        found = self.constant(index)
        if found is None:
            return None
        if found.dtype.kind != "i" or found.size > 64:
            self.refuse(f"input {index} is no short list of whole numbers", "export the model with fixed shapes")
        return tuple(int(number) for number in found.ravel())

    def sole(self, name: str) -> bool:
        """Whether nobody else reads a tensor."""
        return self.graph.readers[name] == 1

    def layer(self, kind: str, values: Sequence[Value], **more: Any) -> Value:
        """Append a layer."""
        return self.graph.layer(self.operator, kind, list(values), **more)

    def refuse(self, what: str, remedy: str) -> NoReturn:
        """Raises ``ConfigError``."""
        refuse(self.operator, what, remedy)
