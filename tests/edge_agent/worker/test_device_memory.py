from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.patience import PATIENCE_S
from tinyfleet.edge_agent.worker import device_memory
from tinyfleet.edge_agent.worker.commands import TaskCommand
from tinyfleet.edge_agent.worker.device_memory import FileMemory
from tinyfleet.edge_agent.worker.trainer import control_of, memory_directory
from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.payload import Payload


def payload(value):
    mask = np.array([True, False, True])
    values = np.where(mask, np.float32(value), np.float32(0))
    return Payload(
        {"value": value}, {"a.weight": values, "b": np.array([value + 0.1], np.float32)}, {"a.weight": mask}
    )


def value(found):
    return None if found is None else found.meta["value"]


def files(directory):
    return sorted(path.name for path in directory.iterdir())


def test_what_was_written_comes_back_losslessly(tmp_path):
    memory = FileMemory(tmp_path / "memory")
    assert memory.read(3) is None, "no directory yet"
    memory.write(3, payload(1.5))
    found = FileMemory(tmp_path / "memory").read(4)
    assert found.meta == {"value": 1.5}
    assert found.mask["a.weight"].tolist() == [True, False, True]
    assert found.params["a.weight"].tolist() == [1.5, 0.0, 1.5]
    assert found.params["b"].tobytes() == np.array([1.6], np.float32).tobytes()


def test_a_repeated_task_sees_what_its_first_try_saw(tmp_path):
    memory = FileMemory(tmp_path)
    memory.write(2, payload(2.0))
    for _ in range(3):
        assert value(memory.read(7)) == 2.0
        memory.write(7, payload(7.0))
    assert value(memory.read(8)) == 7.0
    assert value(memory.read(2)) is None


def test_the_newest_two_are_kept_by_number(tmp_path):
    memory = FileMemory(tmp_path)
    for step in (8, 9, 10, 11):
        memory.write(step, payload(float(step)))
    assert files(tmp_path) == ["memory-10.bin", "memory-11.bin"]
    assert value(memory.read(11)) == 10.0
    assert value(memory.read(99)) == 11.0


def test_steps_that_the_coordinator_took_back_are_forgotten(tmp_path):
    memory = FileMemory(tmp_path)
    for step in (4, 8, 5):
        memory.write(step, payload(float(step)))
    assert files(tmp_path) == ["memory-4.bin", "memory-5.bin"]


@pytest.mark.parametrize("damage", [lambda blob: blob[:-9], lambda blob: b"", lambda blob: b"\x00" * len(blob)])
def test_a_damaged_file_is_passed_over_with_a_warning(tmp_path, caplog, damage):
    memory = FileMemory(tmp_path)
    memory.write(1, payload(1.0))
    memory.write(2, payload(2.0))
    path = tmp_path / "memory-2.bin"
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert value(memory.read(3)) == 1.0
    assert "memory-2.bin is passed over" in caplog.text
    path.unlink()
    (tmp_path / "memory-1.bin").write_bytes(b"TFB1")
    assert memory.read(3) is None


def test_strange_names_are_neither_read_nor_removed(tmp_path):
    for name in ("memory-x.bin", "memory--1.bin", "memory-7.bin.bak"):
        (tmp_path / name).write_bytes(b"?")
    memory = FileMemory(tmp_path)
    assert memory.read(9) is None
    memory.write(9, payload(9.0))
    assert len(files(tmp_path)) == 4


def test_what_cannot_be_encoded_leaves_the_memory_as_it_was(tmp_path):
    memory = FileMemory(tmp_path)
    memory.write(1, payload(1.0))
    with pytest.raises(CodecError, match="b: "):
        memory.write(2, Payload({}, {"b": np.array([np.nan], np.float32)}))
    assert files(tmp_path) == ["memory-1.bin"]
    assert value(memory.read(3)) == 1.0


def killed_while_writing(directory: Path, after: str) -> None:
    """Kill this process between two of the steps of a write."""
    memory = FileMemory(directory)
    dying = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    if after == "half a temporary":
        os.fsync = dying
    elif after == "temporary":
        Path.replace = dying  # type: ignore[assignment]
    else:  # renamed, the old ones not yet removed
        write = device_memory.write_atomic
        device_memory.write_atomic = lambda *a: (write(*a), dying())  # type: ignore[assignment]
    memory.write(3, payload(3.0))


@pytest.mark.parametrize("after", ["half a temporary", "temporary", "rename"])
def test_a_kill_leaves_the_old_memory_or_the_new_one(tmp_path, after):
    memory = FileMemory(tmp_path)
    memory.write(1, payload(1.0))
    memory.write(2, payload(2.0))
    process = multiprocessing.get_context("spawn").Process(target=killed_while_writing, args=(tmp_path, after))
    process.start()
    process.join(PATIENCE_S)
    assert process.exitcode == -signal.SIGKILL
    left = [name for name in files(tmp_path) if name.endswith(".tmp")]
    assert bool(left) == (after != "rename")
    assert value(memory.read(3)) == 2.0, "the repeated task sees what the killed one saw"
    assert value(memory.read(4)) == (3.0 if after == "rename" else 2.0)
    memory.write(3, payload(3.5))
    assert files(tmp_path) == ["memory-2.bin", "memory-3.bin"], "temporaries are cleaned up"
    assert value(memory.read(4)) == 3.5


def test_a_task_remembers_with_the_masks_of_its_run(tmp_path):
    """So that the memory goes when they go."""
    command = TaskCommand("porch", "blob", "result", str(tmp_path / "masks" / "run"), {}, {}, local_steps=4)

    def control():
        return control_of(command, None, Payload({}, {}, {}), None, 10, lambda event: None).control

    control().memory.write(1, payload(1.0))
    assert control().steps == 4
    assert memory_directory(command).is_relative_to(command.masks)
    assert files(memory_directory(command)) == ["memory-1.bin"]
    assert value(control().memory.read(2)) == 1.0


def test_raw_bytes_are_kept_and_nobody_else_reads_them(tmp_path):
    memory = FileMemory(tmp_path / "memory")
    memory.write(3, Payload({"a": 1}, raw={"root": bytes(range(32))}))
    assert memory.read(4).raw == {"root": bytes(range(32))}
    (file,) = (tmp_path / "memory").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
