"""Results, from a device's offer to the verdict: fetched, checked, folded, stored, and only then acknowledged."""

from __future__ import annotations

import logging
from pathlib import Path

from tinyfleet.coordinator.run.aggregate import counted_phase
from tinyfleet.coordinator.run.context import Context
from tinyfleet.coordinator.run.run import LiveRun
from tinyfleet.coordinator.run.step import OpenStep
from tinyfleet.coordinator.states import TaskEvent, TaskPhase
from tinyfleet.coordinator.wire.transfers import Download
from tinyfleet.fedcore.errors import CodecError, ResultError
from tinyfleet.fedcore.protocol.messages import ResultOffer, ResultVerdict, Verdict

log = logging.getLogger(__name__)

MAX_CHUNKS = 100_000  # of one result: each costs a byte of memory while it arrives


class Intake:
    """Takes results of the live run: of its open step, and late ones within the staleness window."""

    def __init__(self, context: Context) -> None:
        self.live: LiveRun | None = None
        self.late: dict[str, int] = {}  # device -> earlier step that it is still at, and that may still count
        self._context = context
        self._ledger = context.ledger

    def may_count(self, run: str, step: int) -> bool:
        """True for the coming or open step of the live run, and for earlier ones within the staleness window."""
        live = self.live
        return live is not None and run == live.run and (step == live.step or live.counts_late(step))

    def on_offer(self, device: str, offer: ResultOffer) -> None:
        """Fetch a result that can count; say at once where it cannot."""
        step = self._open_step()
        if step is not None and (offer.run, offer.step) == (step.run, step.step):
            step.on_result_offered(device)
        verdict = self._verdict(device, offer)
        if verdict is not None:
            self._answer(device, offer, *verdict)
        elif step is not None:
            self._context.downloads.begin(device, offer)
            for download in self._context.downloads.complete():
                self.on_download(download)

    def on_download(self, download: Download) -> None:
        """A result is here whole."""
        device, offer = download.device, download.offer
        try:
            path = self._context.downloads.take(download)
        except CodecError as error:
            self._refuse(device, offer, str(error))
            return
        if path is None:
            return
        verdict = self._verdict(device, offer)  # the step may have closed meanwhile
        step = self._open_step()
        if verdict is None and step is not None:
            try:
                self._count(step, device, offer, path)
                verdict = (Verdict.STORED, "")
            except ResultError as error:
                self._refuse(device, offer, str(error))
        path.unlink(missing_ok=True)
        if verdict is not None:
            self._answer(device, offer, *verdict)

    def drop_too_late(self, live: LiveRun) -> dict[str, int]:
        """Devices, and their steps, whose work can no longer count; they are forgotten here."""
        gone = {device: step for device, step in self.late.items() if not live.counts_late(step)}
        for device in gone:
            del self.late[device]
        return gone

    def free(self, device: str) -> None:
        """A device that is no longer at an earlier step may take part again."""
        known = self._context.registry.get(device)
        if known is not None and known.task is None:
            self.late.pop(device, None)

    # -- inside -------------------------------------------------------------------------

    def _open_step(self) -> OpenStep | None:
        return None if self.live is None else self.live.open

    def _count(self, step: OpenStep, device: str, offer: ResultOffer, path: Path) -> None:
        """Fold, then make it durable. A crash in between loses the fold, and the device offers it again."""
        phase = counted_phase(offer.step, step.step)
        step.fold.add(offer.step, device, path.read_bytes())
        self._ledger.blobs.adopt(path, offer.manifest.sha256)
        wall_s = step.wall_s(device) if phase is TaskPhase.STORED else None
        self._ledger.count_result(device, offer, phase, step.step, wall_s)
        self._context.registry.note_peak(device, offer.peak_rss_bytes)
        if phase is TaskPhase.STORED:
            step.settle(device, TaskEvent.COUNT)
        else:
            self.late.pop(device, None)

    def _verdict(self, device: str, offer: ResultOffer) -> tuple[Verdict, str] | None:
        """The answer that needs no look at the result; None: it can count."""
        found = self._ledger.task_phase(offer.run, offer.step, device)
        if found is None:
            return Verdict.REFUSED, "no such task was given to this device"
        phase, reason = found
        if phase in (TaskPhase.STORED, TaskPhase.LATE):
            return Verdict.DUPLICATE, ""
        if phase in (TaskPhase.REFUSED, TaskPhase.FAILED):
            return Verdict.REFUSED, reason
        if not self._context.registry.accepted(device):
            return Verdict.REFUSED, "the device is not accepted"
        if not self.may_count(offer.run, offer.step):
            return Verdict.REFUSED, "too late: its step is over"
        most = self._context.config.max_result_bytes
        if offer.manifest.size > most or offer.manifest.count > MAX_CHUNKS:
            size, count = offer.manifest.size, offer.manifest.count
            reason = f"{size} bytes in {count} chunks; at most {most} in {MAX_CHUNKS} are taken"
            self._mark_refused(device, offer, reason)
            return Verdict.REFUSED, reason
        return None

    def _refuse(self, device: str, offer: ResultOffer, reason: str) -> None:
        log.warning("result of %s for step %d refused: %s", device, offer.step, reason)
        self._mark_refused(device, offer, reason)
        self._answer(device, offer, Verdict.REFUSED, reason)

    def _mark_refused(self, device: str, offer: ResultOffer, reason: str) -> None:
        step = self._open_step()
        if step is not None and offer.step == step.step:
            step.settle(device, TaskEvent.REFUSE, reason)
        else:
            self._ledger.refuse_late(device, offer.run, offer.step, reason)
            self.late.pop(device, None)

    def _answer(self, device: str, offer: ResultOffer, verdict: Verdict, reason: str) -> None:
        self._context.post.send(device, ResultVerdict(offer.run, offer.step, verdict, reason[:2000]))
