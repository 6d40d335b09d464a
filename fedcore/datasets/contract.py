"""What a run asks of data: of the gateway's before it is submitted, of each board's before it is trained on."""

from __future__ import annotations

from tinyfleet.fedcore.datasets.agreement import DataDisagreement, disagreements, shape_remedy, sides
from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.foreign.data_description import DataDescription, is_numbered
from tinyfleet.fedcore.run_spec import ModelSettings, RunSpec


def objections(own: DataDescription, spec: RunSpec) -> list[str]:
    """All that keeps ``own`` data from training the run, in words of both sides; empty: nothing."""
    found = [] if spec.contract is None else disagreements(own, spec.contract)
    return [str(one) for one in found or _with_model(own, spec.model)]


def check_data(own: DataDescription, model: ModelSettings) -> None:
    """Raises ``DataError`` where the model has another input or fewer outputs than the data has classes."""
    if found := _with_model(own, model):
        raise DataError("; ".join(map(str, found)))


def _with_model(own: DataDescription, model: ModelSettings) -> list[DataDisagreement]:
    found = []
    if own.shape != model.input_shape:
        remedy = f"{shape_remedy(own.shape, model.input_shape)}, or set model.input_shape"
        found.append(
            DataDisagreement("shape", sides(own.shape), f"{sides(model.input_shape)} by the model", remedy)
        )
    if len(own.classes) > model.classes:
        numbered = is_numbered(own.classes)
        what = f"labels up to {len(own.classes) - 1}" if numbered else f"{len(own.classes)} classes"
        remedy = f"set model.classes = {len(own.classes)}"
        if numbered and own.samples and not own.samples[0]:
            remedy = f"labels count from 0: subtract 1 from each; or {remedy}"
        found.append(DataDisagreement("classes", what, f"a model of {model.classes} outputs", remedy))
    return found
