"""The live fold of one step: results go in as they arrive, each at most once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from tinyfleet.fedcore.arrays import Mask
from tinyfleet.fedcore.errors import AggregationError, CodecError, ResultError
from tinyfleet.fedcore.methods.method import Fold, Method
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol import codec

log = logging.getLogger(__name__)

StoredResult = tuple[int, str, bytes]
"""(step it was computed for, device, blob)."""

_MARGIN_BYTES = 64 * 2**20


class StepFold:
    """A method's fold together with what it has counted.

    ``stored`` gives the results of the step that are on disk, in order of arrival: a restarted
    coordinator folds them again, and so equals one that never stopped, bit for bit. ``held`` finds a
    mask by its digest.
    """

    def __init__(
        self,
        method: Method,
        state: Payload,
        held: Callable[[str], Mask | None],
        stored: Callable[[], Iterable[StoredResult]],
    ) -> None:
        self._method = method
        self._state = state
        self._held = held
        self._stored = stored
        self._max_decoded_bytes = _MARGIN_BYTES + 32 * sum(s.size for s in method.problem.graph.params.values())
        self._rebuild()

    @property
    def results(self) -> int:
        """How many results are counted, late ones of earlier steps included."""
        return len(self._counted)

    def add(self, step: int, device: str, blob: bytes) -> bool:
        """Fold one result; False where it is counted already.

        Raises ``ResultError`` where it does not fit, with the fold unchanged.
        """
        if (step, device) in self._counted:
            return False
        try:
            self._fold_in(step, blob)
        except ResultError:
            raise
        except CodecError as error:
            raise ResultError(f"result cannot be decoded: {error}") from None
        except (AggregationError, KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            # Not the method's promise, so the fold may be half changed: start again from the disk.
            log.warning("result of %s for step %d broke the fold: %r", device, step, error)
            self._rebuild()
            raise ResultError(f"result cannot be folded: {error}") from error
        self._counted.add((step, device))
        return True

    def finish(self) -> Payload:
        """The state after the step."""
        return self._method.finish_round(self._state, self._fold)

    def _rebuild(self) -> None:
        self._fold: Fold = self._method.begin_fold(self._state)
        self._counted: set[tuple[int, str]] = set()
        for step, device, blob in self._stored():
            self._fold_in(step, blob)
            self._counted.add((step, device))

    def _fold_in(self, step: int, blob: bytes) -> None:
        result = codec.decode(blob, held=self._held, max_decoded_bytes=self._max_decoded_bytes)
        if result.meta.get("step") != step:
            raise ResultError(f"result is of step {result.meta.get('step')!r}, it was offered for step {step}")
        self._method.fold(self._fold, result)
