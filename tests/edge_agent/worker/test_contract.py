"""A board's own names and numbers against the run's: mapped where they mean the same, else refused by name."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.edge_agent.runs import command, first_state, spec_of, task_blob
from tinyfleet.edge_agent.worker.commands import TaskDone
from tinyfleet.edge_agent.worker.trainer import Trainer
from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.foreign.data_description import DataDescription
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.training.registry import available

needs_engine = pytest.mark.skipif(not available(), reason="the worker needs an engine")

CLASSES = ("blue", "green", "grey", "red", "white")
CONTRACT = DataDescription((1, 12, 12), "uint8", classes=CLASSES, range=(0.0, 255.0))
SPEC = msgspec.structs.replace(spec_of(), model=ModelSettings("small_cnn", (1, 12, 12), 5), contract=CONTRACT)


def samples():
    rng = np.random.default_rng(0)
    y = rng.choice([1, 3], 60)  # green and red alone
    x = rng.integers(0, 200, (60, 1, 12, 12), dtype=np.uint8)
    return x, y


def result(tmp_path, x, y, classes=(), spec=SPEC):
    """What a board with these samples sends, whose labels have those names."""
    tmp_path.mkdir(exist_ok=True)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    order = command(tmp_path, spec, task_blob(spec, first_state(spec)), f"arrays:{tmp_path}/d.npz")
    order = msgspec.structs.replace(order, data={**order.data, "classes": list(classes)})
    events = []
    Trainer(events.append).run(order)
    assert isinstance(events[-1], TaskDone)
    return Path(order.result).read_bytes()


@needs_engine
def test_two_of_five_classes_and_another_order_train_as_aligned_ones_do(tmp_path):
    x, y = samples()
    aligned = result(tmp_path / "aligned", x, y, CLASSES)
    assert result(tmp_path / "two", x, (y == 3).astype(np.int64), ("green", "red")) == aligned
    assert result(tmp_path / "reversed", x, 4 - y, CLASSES[::-1]) == aligned
    wrong = msgspec.structs.replace(SPEC, contract=msgspec.structs.replace(CONTRACT, classes=CLASSES[::-1]))
    assert result(tmp_path / "wrong", x, y, CLASSES, wrong) != aligned


@needs_engine
@pytest.mark.parametrize(
    ("x", "classes", "said"),
    [
        (lambda x: x, ("green", "teal"), ("teal", "blue, green, grey, red, white", "rename or remove teal")),
        (lambda x: x, ("Green", "red"), ("write 'green' for 'Green'",)),
        (lambda x: x, (), ("'classes'",)),
        (lambda x: (x / 255.0).astype(np.float32), ("green", "red"), ("value range", "0 to 255 (uint8)")),
        (lambda x: x.repeat(3, axis=1), ("green", "red"), ("(3, 12, 12)", "(1, 12, 12)", "channels")),
    ],
    ids=["unknown class", "other case", "no names", "floats", "colour"],
)
def test_what_means_something_else_is_refused_in_the_words_of_both_sides(tmp_path, x, classes, said):
    images, y = samples()
    with pytest.raises(DataError) as refusal:
        result(tmp_path, x(images), (y == 3).astype(np.int64), classes)
    for words in said:
        assert words in str(refusal.value)
