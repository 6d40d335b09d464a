"""Results, from a device's offer to the verdict: fetched, checked, folded, stored, and only then acknowledged."""

from __future__ import annotations

import logging

from tinyfleet.coordinator.errors import StoreError
from tinyfleet.coordinator.run.run import Run
from tinyfleet.coordinator.states import TaskPhase
from tinyfleet.coordinator.step.context import Context
from tinyfleet.coordinator.wire.transfers import Download
from tinyfleet.fedcore.errors import CodecError, ResultError
from tinyfleet.fedcore.protocol.messages import ResultOffer, ResultVerdict, Verdict

log = logging.getLogger(__name__)

_MOST_UNKNOWN = 1000
MAX_CHUNKS = 100_000  # of one result: each costs a byte of memory while it arrives


class Results:
    """Takes results for the run under way: of its open step, and late ones within the staleness window."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._unknown: set[tuple[str, str]] = set()  # (run, device) that the log has named

    def on_offer(self, run: Run | None, device: str, offer: ResultOffer) -> None:
        """Fetch a result that can count; say at once where it cannot."""
        if not self._is_known(device, offer):
            return
        verdict = self._verdict(run, device, offer)
        if run is not None and self._is_of_another_task(offer):
            run.offer_anew(device, offer)
        elif run is not None:
            run.on_result_offered(device, offer)
        if verdict is not None:
            self._answer(device, offer, *verdict)
        elif run is not None and run.has_open_step:
            self._context.downloads.begin(device, offer)
            for download in self._context.downloads.complete():
                self.on_download(run, download)

    def on_download(self, run: Run | None, download: Download) -> None:
        """A result is here whole."""
        device, offer = download.device, download.offer
        try:
            path = self._context.downloads.take(download)
        except CodecError as error:
            # Nobody signs a chunk, so this is no word of the device's: it looks at its result, and offers it again.
            log.warning("result of %s for step %d: %s", device, offer.step, error)
            return
        if path is None:
            return
        verdict = self._verdict(run, device, offer)  # the step may have closed meanwhile
        if verdict is None and run is not None and run.has_open_step:
            try:
                run.count(device, offer, path)
                verdict = (Verdict.STORED, "")
            except ResultError as error:
                self._refuse(run, device, offer, str(error))
            except StoreError:
                raise
            except Exception as error:
                # What broke it once would break it at every offer: the device must not keep it.
                self._refuse(run, device, offer, f"it cannot be counted: {error!r}"[:2000])
                path.unlink(missing_ok=True)
                raise
        path.unlink(missing_ok=True)
        if verdict is not None:
            self._answer(device, offer, *verdict)

    def _is_known(self, device: str, offer: ResultOffer) -> bool:
        """False where nothing is known of its task: who does not know it has nothing to say of it.

        The state directory may be a new one, or an older one than the result.
        """
        runs = self._context.store.runs
        if self._context.store.tasks.phase(offer.run, offer.step, device) is not None or runs.has_ended(offer.run):
            return True
        if (offer.run, device) not in self._unknown and len(self._unknown) < _MOST_UNKNOWN:
            self._unknown.add((offer.run, device))
            log.warning(
                "%s has a result for step %d of run %s, which is not known here: it is neither taken nor refused",
                *(device, offer.step, offer.run),
            )
        return False

    # -- inside -------------------------------------------------------------------------

    def _is_of_another_task(self, offer: ResultOffer) -> bool:
        """True where the run comes to its step from another state now: the database was restored, say."""
        return self._context.store.steps.base(offer.run, offer.step) not in (None, offer.base)

    def _verdict(self, run: Run | None, device: str, offer: ResultOffer) -> tuple[Verdict, str] | None:
        """The answer that needs no look at the result; None: it can count."""
        found = self._context.store.tasks.phase(offer.run, offer.step, device)
        if found is None:
            return Verdict.REFUSED, "no such task was given to this device"
        phase, reason = found
        if phase in (TaskPhase.STORED, TaskPhase.LATE):
            return Verdict.DUPLICATE, ""
        if phase in (TaskPhase.REFUSED, TaskPhase.FAILED):
            return Verdict.REFUSED, reason
        if not self._context.registry.accepted(device):
            return Verdict.REFUSED, "the device is not accepted"
        if run is None or not run.may_count(offer.run, offer.step):
            return Verdict.REFUSED, "too late: its step is over"
        if self._is_of_another_task(offer):
            return Verdict.REFUSED, "its step starts from another state now than the one it was trained from"
        most = self._context.config.max_result_bytes
        if offer.manifest.size > most or offer.manifest.count > MAX_CHUNKS:
            size, count = offer.manifest.size, offer.manifest.count
            reason = f"{size} bytes in {count} chunks; at most {most} in {MAX_CHUNKS} are taken"
            run.refuse(device, offer, reason)
            return Verdict.REFUSED, reason
        return None

    def _refuse(self, run: Run | None, device: str, offer: ResultOffer, reason: str) -> None:
        log.warning("result of %s for step %d refused: %s", device, offer.step, reason)
        if run is None:
            self._context.store.tasks.refuse(device, offer.run, offer.step, reason)
        else:
            run.refuse(device, offer, reason)
        self._answer(device, offer, Verdict.REFUSED, reason)

    def _answer(self, device: str, offer: ResultOffer, verdict: Verdict, reason: str) -> None:
        self._context.outgoing.send(device, ResultVerdict(offer.run, offer.step, verdict, reason[:2000]))
