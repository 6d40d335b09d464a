"""What reads a data set: the seam behind the word in ``data.source``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tinyfleet.fedcore.datasets.dataset import Dataset
from tinyfleet.fedcore.run_spec import Settings

DatasetParts = tuple[Dataset, Dataset | None, str]
"""The training part, the test part where the data set has one of its own, and a line on where it is from."""


@dataclass(frozen=True, slots=True)
class Reader:
    """``read`` gets nothing, or with ``takes_path`` what stands after the colon. It raises ``DataError``.

    With ``settings`` it gets those too: what stands after a question mark, ``PATH?key=value&key=value``.
    """

    read: Callable[..., DatasetParts]
    takes_path: bool = False
    settings: type[Settings] | None = None
