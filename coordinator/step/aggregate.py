"""The aggregate of one step: results go in as they arrive, each at most once, and are judged when it closes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from tinyfleet.fedcore.arrays import Mask
from tinyfleet.fedcore.cohort.admission import Judgement, judge
from tinyfleet.fedcore.cohort.direction import PEERS, astray
from tinyfleet.fedcore.cohort.limits import limited
from tinyfleet.fedcore.cohort.measure import Key, Measured, measure
from tinyfleet.fedcore.cohort.robust import STREAMED, robust
from tinyfleet.fedcore.errors import AggregationError, CodecError, ResultError
from tinyfleet.fedcore.methods.method import Fold, Method
from tinyfleet.fedcore.methods.parts.checks import MAX_SAMPLES, checked_samples
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.privacy.noise import StepPrivacy, noisy_mean, reduced, untold
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.run_spec import FleetSettings

log = logging.getLogger(__name__)

StoredResult = tuple[int, str, bytes]
"""(step it was computed for, device, blob)."""

KEPT_BYTES = 16 * 2**20  # of results: so much of a step is never read from the disk twice

_MARGIN_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Closed:
    """What the results of a step come to."""

    judgement: Judgement
    fold: Fold


class StepFold:
    """A method's fold together with what it has counted, and the admission of it all.

    ``stored`` gives the results of the step that are on disk, in order of arrival: a restarted
    coordinator folds them again, and so equals one that never stopped, bit for bit. ``held`` finds a
    mask by its digest.

    Results are folded as they come, as if all were fit to count. Where admission refuses one, or cuts it
    back, or where the sum cannot hold them all, those that do count are folded once more at the end: sums
    are exact in any order, so the two ways cannot differ.
    """

    def __init__(
        self,
        method: Method,
        state: Payload,
        held: Callable[[str], Mask | None],
        stored: Callable[[], Iterable[StoredResult]],
        fleet: FleetSettings | None = None,
        privacy: StepPrivacy | None = None,
    ) -> None:
        self._method = method
        self._state = state
        self._task = method.configure_round(state)
        self._held = held
        self._stored = stored
        self._fleet = fleet or FleetSettings()
        self._privacy = privacy
        self._max_decoded_bytes = _MARGIN_BYTES + 32 * sum(s.size for s in method.problem.graph.params.values())
        self._closed: Closed | None = None
        self._rebuild()

    @property
    def results(self) -> int:
        """How many results are there, late ones of earlier steps included, before any is refused at the end."""
        return len(self._counted)

    @property
    def admitted(self) -> int:
        """How many of them may be counted, by those that are there now."""
        return len(self._counted) - len(self.judgement.refused)

    @property
    def judgement(self) -> Judgement:
        """Which of the results that are there now are refused, and which are cut back."""
        return self._close().judgement

    def add(self, step: int, device: str, blob: bytes, enrolled: int = 0) -> bool:
        """Take one result; False where it is there already.

        ``enrolled`` is the number of samples that the device enrolled with; 0: not known. Raises ``ResultError``
        where it does not fit its task, with the fold unchanged.
        """
        if (step, device) in self._counted:
            return False
        try:
            self._take((step, device), blob, enrolled)
        except ResultError:
            raise
        except CodecError as error:
            raise ResultError(f"result cannot be decoded: {error}") from None
        except (AggregationError, KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            # Not the method's promise, so the fold may be half changed: start again from the disk.
            log.warning("result of %s for step %d broke the fold: %r", device, step, error)
            self._rebuild()
            raise ResultError(f"result cannot be folded: {error}") from error
        return True

    def drop(self, keys: Iterable[Key]) -> None:
        """Forget results that are refused, and not stored any more."""
        for key in keys:
            self._counted.pop(key, None)
            self._kept.pop(key, None)
        self._whole, self._closed = False, None

    def finish(self) -> Payload:
        """The state after the step."""
        closed = self._close()
        if self._privacy is None:
            return self._method.next_state(self._state, self._straight(closed))
        fold = self._noisy(self._privacy, closed.judgement) if self._privacy.central else self._straight(closed)
        return untold(self._method.next_state(self._state, fold))

    # -- results as they come -----------------------------------------------------------

    def _rebuild(self) -> None:
        self._fold: Fold = self._method.begin_fold(self._state)
        self._whole = True  # the fold holds all that is counted
        self._counted: dict[Key, Measured] = {}
        self._kept: dict[Key, bytes] = {}  # blobs of what is counted, while they are few
        self._kept_bytes = 0
        self._closed = None
        for step, device, blob in self._stored():
            self._take((step, device), blob, 0)

    def _take(self, key: Key, blob: bytes, enrolled: int) -> None:
        result = self._decode(key[0], blob)
        if result.meta.get("device", key[1]) != key[1]:
            raise ResultError(f"{key[1]} sent a result of {result.meta['device']!r:.80}")
        measured = measure(self._method, self._task, result, enrolled)
        try:
            self._method.fold(self._fold, result)
        except AggregationError:
            # The sum is full. Whose fault that is shows at the end, unless this result alone fills it.
            self._method.fold(self._method.begin_fold(self._state), result)
            self._whole = False
        self._counted[key], self._closed = measured, None
        self._kept_bytes += len(blob)
        if self._kept_bytes <= KEPT_BYTES:
            self._kept[key] = blob
        else:
            self._kept.clear()

    def _decode(self, step: int, blob: bytes) -> Payload:
        result = codec.decode(blob, held=self._held, max_decoded_bytes=self._max_decoded_bytes)
        if result.meta.get("step") != step:
            raise ResultError(f"result is of step {result.meta.get('step')!r}, it was offered for step {step}")
        if step != self._task.meta["step"]:
            result = self._method.late(self._task, result)
        return result if self._privacy is None else reduced(result)

    # -- the end ------------------------------------------------------------------------

    def _close(self) -> Closed:
        if self._closed is None:
            judgement = judge(self._counted, self._fleet)
            # Of central privacy the noisy mean alone is used, and none is refused for what others fill a sum with.
            central = self._privacy is not None and self._privacy.central
            plain = self._fleet.aggregate in STREAMED
            if central or (plain and self._whole and not judgement.refused and not judgement.limits):
                self._closed = Closed(judgement, self._fold)
            else:
                self._closed = self._folded_anew(judgement)
        return self._closed

    def _folded_anew(self, judgement: Judgement) -> Closed:
        """The fold of those that ``judgement`` admits; where the sum cannot hold them, of their shares of it."""
        try:
            return Closed(judgement, self._sum(judgement))
        except AggregationError:
            greedy = dict(judgement.refused)
            count = len(self._counted) - len(greedy)
            for key, result in self._admitted(judgement):
                if not self._fits(result, count):
                    greedy[key] = f"its values take more than one part in {count} of what the sum can hold"
            judgement = replace(judgement, refused=greedy)
            return Closed(judgement, self._sum(judgement))

    def _sum(self, judgement: Judgement) -> Fold:
        fold = self._method.begin_fold(self._state)
        for result in robust(self._fleet, self._task, self._admitted(judgement)):
            self._method.fold(fold, result)
        return fold

    def _straight(self, closed: Closed) -> Fold:
        """The fold without results that point away from all others: at the end alone, since all are read for it."""
        judgement = closed.judgement
        if not self._fleet.influence_limit:
            return closed.fold
        peers = 0 if self._fleet.aggregate == "mean" else PEERS
        left_out = astray(self._method, self._task, lambda: self._admitted(judgement), peers=peers)
        if not left_out:
            return closed.fold
        for step, device in sorted(left_out):
            log.info("result of %s for step %d counts for nothing: it points away from all others", device, step)
        return self._sum(replace(judgement, refused={**judgement.refused, **dict.fromkeys(left_out, "")}))

    def _noisy(self, privacy: StepPrivacy, judgement: Judgement) -> Fold:
        """The fold of the noisy mean alone: the method sees no single result."""
        results = (result for _, result in self._admitted(judgement))
        fold = self._method.begin_fold(self._state)
        self._method.fold(fold, noisy_mean(privacy.settings, privacy.key, self._method, self._task, results))
        return fold

    def _fits(self, result: Payload, times: int) -> bool:
        """True where the sum could hold so many like it: any such results fit together."""
        weight = checked_samples(result) * times
        try:
            self._method.fold(
                self._method.begin_fold(self._state), replace(result, meta=result.meta | {"samples": weight})
            )
        except ResultError:
            return False
        return weight <= MAX_SAMPLES

    def _admitted(self, judgement: Judgement) -> Iterator[tuple[Key, Payload]]:
        """Results that count, as far as they count; one at a time."""
        for key, blob in self._blobs():
            if key in self._counted and key not in judgement.refused:
                result, limit = self._decode(key[0], blob), judgement.limits.get(key)
                yield key, result if limit is None else limited(self._task, result, limit)

    def _blobs(self) -> Iterator[tuple[Key, bytes]]:
        if self._kept.keys() == self._counted.keys():
            yield from self._kept.items()
            return
        for step, device, blob in self._stored():
            yield (step, device), blob
