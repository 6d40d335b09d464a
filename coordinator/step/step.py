"""One step while it is open: offers its task, follows its devices, counts results, knows when it is over."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from tinyfleet.coordinator.states import FINAL_TASK_PHASES, PhaseEvent, StepEvent, TaskPhase
from tinyfleet.coordinator.step.aggregate import StepFold
from tinyfleet.coordinator.step.context import Context
from tinyfleet.coordinator.step.deadline import StepDeadline
from tinyfleet.coordinator.step.offers import StepOffers
from tinyfleet.coordinator.step.step_task import StepTask
from tinyfleet.coordinator.store.records import DEADLINE, Choice
from tinyfleet.fedcore.cohort.measure import Key
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol.messages import ResultOffer, ResultVerdict, TaskState, TaskStatus, Verdict
from tinyfleet.fedcore.run_spec import FleetSettings

log = logging.getLogger(__name__)

MAX_DECLINE_PAUSE_S = 10.0
MOST_OFFERS = 32  # between two looks at what devices answer: a broker keeps only so many messages for a client

AT_WORK = (TaskPhase.ACCEPTED, TaskPhase.RUNNING)

_EVENTS = {
    TaskState.ACCEPTED: PhaseEvent.ACCEPT,
    TaskState.RUNNING: PhaseEvent.PROGRESS,
    TaskState.FINISHED: PhaseEvent.RESULT,
}


class Step:
    """The tasks of one step, and the fold of its results. Its run opens and closes it."""

    def __init__(
        self,
        context: Context,
        run: str,
        step: int,
        fleet: FleetSettings,
        offers: StepOffers,
        fold: StepFold,
        tasks: Iterable[StepTask],
        *,
        opened_at: float,
        attempt: int = 1,
    ) -> None:
        self.run, self.step = run, step
        self._attempt = attempt
        self._opened_at = opened_at
        self._context = context
        self._fleet = fleet
        self._offers, self._fold = offers, fold
        self._tasks = {task.device: task for task in tasks}
        self._deadline = StepDeadline(context.clock(), fleet.deadline_s)
        self._put_off_told_s: dict[str, float] = {}  # by device

    # -- what is known ------------------------------------------------------------------

    @property
    def attempt(self) -> int:
        return self._attempt

    @property
    def results(self) -> int:
        """How many results are counted."""
        return self._fold.admitted

    @property
    def excluded(self) -> Mapping[Key, str]:
        """Stored results that are unfit to count beside all others that are here now, and why."""
        return self._fold.judgement.refused

    @property
    def devices(self) -> frozenset[str]:
        """All that were ever given its task."""
        return frozenset(self._tasks)

    @property
    def blob_digests(self) -> set[str]:
        """The task blobs that its devices may ask for."""
        return self._offers.digests

    def unsettled(self) -> list[str]:
        """Devices that the step still waits for."""
        return [task.device for task in self._tasks.values() if not task.settled]

    def hopeful(self) -> list[str]:
        """Devices whose result may still come, lost ones included."""
        return [task.device for task in self._tasks.values() if task.phase not in FINAL_TASK_PHASES]

    def lost(self) -> list[dict[str, str]]:
        """Each task that ends without a counted result, and why."""
        return [
            {"device": task.device, "reason": task.reason or DEADLINE}
            for task in self._tasks.values()
            if task.phase is not TaskPhase.STORED
        ] + [
            {"device": device, "reason": reason}
            for (step, device), reason in self.excluded.items()
            if step == self.step
        ]

    def shortage(self) -> str:
        """How many results there are, how many are needed, and what became of the rest."""
        reasons = "; ".join(f"{entry['device']}: {entry['reason']}" for entry in self.lost()[:5])
        return f"{self.results} of {self._fleet.min_results} needed results ({reasons})"

    def duration_s(self) -> float:
        """Seconds since it was opened, in this process or an earlier one."""
        return self._context.clock() - self._opened_at

    # -- what devices say ---------------------------------------------------------------

    def on_status(self, device: str, status: TaskStatus) -> None:
        """Progress, or trouble."""
        task = self._tasks.get(device)
        if task is None:
            return
        task.measured(status)
        match status.state:
            case TaskState.PAUSED:
                self._offers.note_mask(device, held=True)
                task.pauses(status.reason, status.paused_s, self._context.clock())
                task.follow(PhaseEvent.PROGRESS)
            case TaskState.ACCEPTED | TaskState.RUNNING | TaskState.FINISHED:
                if task.goes_on(status.paused_s):
                    self._log_put_off(device)
                if status.state is not TaskState.ACCEPTED:
                    self._offers.note_mask(device, held=True)
                    task.progressed(status)
                task.follow(_EVENTS[status.state])
            case TaskState.NEEDS_MASK:
                self._needs_mask(task)
            case TaskState.UNFIT:
                self._unfit(task, status.reason)
            case TaskState.OVER_BUDGET | TaskState.FAILED | TaskState.DECLINED:
                self._stumble(
                    task, f"{status.state.value}: {status.reason}", pause=status.state is TaskState.DECLINED
                )

    def on_hello(self, device: str) -> None:
        """The device is back, perhaps after a restart: offer again what it does not have."""
        task = self._tasks.get(device)
        if task is not None and (task.phase is TaskPhase.LOST or not task.settled):
            task.offer_again()
            self._look_whether_at_it(task)

    def offer_anew(self, device: str) -> None:
        """What the device has done, or is at, was another task: offer it this one, whatever it says it is at."""
        task = self._tasks.get(device)
        if task is not None and (task.phase is TaskPhase.LOST or not task.settled):
            task.offer_again()

    def on_heartbeat(self, device: str) -> None:
        """Offer again what a device has lost, or what it never received."""
        task = self._tasks.get(device)
        if task is None:
            return
        if task.phase is TaskPhase.LOST:
            task.offer_again()
        if task.phase is TaskPhase.OFFERED:
            self._look_whether_at_it(task)
        elif not task.settled and self._context.registry.has_lost_its_task(device):
            task.offer_again()

    def on_result_offered(self, device: str) -> None:
        """The result is in the device's outbox."""
        task = self._tasks.get(device)
        if task is not None:
            self._offers.note_mask(device, held=True)
            task.follow(PhaseEvent.RESULT)

    # -- results ------------------------------------------------------------------------

    def count(self, device: str, offer: ResultOffer, path: Path) -> None:
        """Fold a result, of this step or an earlier one, then make it durable.

        A crash in between loses the fold, and the device offers it again. Raises ``ResultError`` where it does
        not fit, with the fold unchanged.
        """
        store = self._context.store
        self._fold.add(offer.step, device, path.read_bytes(), self._context.registry.enrolled_samples(device))
        store.blobs.adopt(path, offer.manifest.sha256)
        task = self._tasks.get(device) if offer.step == self.step else None
        wall_s = None if task is None else task.wall_s(self._context.clock())
        store.tasks.count(device, offer, self.step, wall_s)
        self._context.registry.note_peak(device, offer.peak_rss_bytes)
        if task is not None:
            task.reason = ""
            task.follow(PhaseEvent.RESULT)  # it is here, whatever the device last said
            task.follow(PhaseEvent.COUNT)

    def uncounted(self, device: str) -> None:
        """Its result is damaged on disk, and in the fold no more: it is asked for again."""
        task = self._tasks.get(device)
        if task is not None:
            task.begin_anew()

    def refuse(self, device: str, reason: str) -> None:
        """A result of this step is invalid."""
        task = self._tasks.get(device)
        if task is not None:
            task.reason = reason
            task.follow(PhaseEvent.RESULT)
            task.follow(PhaseEvent.REFUSE)
            self._save(task)

    def lose(self, device: str, reason: str) -> None:
        """Wait no longer for a device."""
        task = self._tasks.get(device)
        if task is not None:
            task.reason = reason
            task.follow(PhaseEvent.LOSE)
            self._save(task)

    def aggregate(self) -> Payload:
        """The state after the step, of the results that it does not exclude. Raises what the method raises."""
        return self._fold.finish()

    def exclude(self) -> None:
        """The step goes on without the results that are unfit to count: on disk, then to their devices."""
        excluded = dict(self.excluded)
        if not excluded:
            return
        self._context.store.exclude(self.run, excluded)
        self.tell_excluded()
        for (step, device), reason in excluded.items():
            if step == self.step:
                self._tasks[device].reason = reason
                self._tasks[device].follow(PhaseEvent.EXCLUDE)
        self._fold.drop(excluded)

    def tell_excluded(self) -> None:
        """Say why, here and to the devices."""
        for (step, device), reason in self.excluded.items():
            log.warning("result of %s for step %d does not count: %s", device, step, reason)
            self._context.outgoing.send(device, ResultVerdict(self.run, step, Verdict.REFUSED, reason))

    # -- time ---------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Send the offers that are due, give up on devices that stay away."""
        registry, sent = self._context.registry, 0
        for task in self._tasks.values():
            if task.settled:
                continue
            if registry.online(task.device):
                if task.phase is TaskPhase.OFFERED and sent < MOST_OFFERS:
                    sent += self._offers.send_if_due(task, now, self._lease_s(now))
                elif task.phase in AT_WORK:
                    self._offers.extend_if_due(task, now, self._lease_s(now))
                continue
            away_s = registry.away_s(task.device, now)
            if not registry.accepted(task.device):
                self.lose(task.device, "rejected by the operator")
            elif away_s is not None and away_s >= self._fleet.grace_s:
                self.lose(task.device, "offline")

    def _lease_s(self, now: float) -> float:
        """For how long a result can count: until the deadline, and for as many more as the run lets it be late."""
        return self._deadline.left_s(self._tasks.values(), now) + self._fleet.staleness * self._fleet.deadline_s

    def outcome(self, now: float) -> StepEvent | None:
        """ENOUGH: close it. SHORT: try again. None: wait."""
        if now >= self._deadline.due_at(self._tasks.values(), now):
            return StepEvent.ENOUGH if self._enough() else StepEvent.SHORT
        if not all(task.settled for task in self._tasks.values()):
            return None
        if self._enough():
            return StepEvent.ENOUGH
        may_return = any(task.phase is TaskPhase.LOST for task in self._tasks.values())
        return None if may_return else StepEvent.SHORT

    def retry(self, fresh: Choice) -> None:
        """Offer the same task once more: to ``fresh`` devices, and to lost ones that are back."""
        registry = self._context.registry
        back = [
            task for task in self._tasks.values() if task.phase is TaskPhase.LOST and registry.online(task.device)
        ]
        self._attempt += 1
        self._context.store.extend_step(self.run, self.step, self._attempt, [task.device for task in back], fresh)
        for task in back:
            task.offer_again()
        for share in fresh.cohort:
            self._tasks[share.device] = StepTask.given(share)
        self.wait_again()

    def wait_again(self) -> None:
        """Start the deadline anew."""
        self._deadline.set_again(self._tasks.values(), self._context.clock())
        self._put_off_told_s.clear()

    def flush(self) -> None:
        """Write progress that the store does not know yet."""
        notes = [task.note() for task in self._tasks.values() if not task.is_noted]
        if notes:
            self._context.store.tasks.note(self.run, self.step, notes)

    # -- inside -------------------------------------------------------------------------

    def _enough(self) -> bool:
        return self._fold.results >= self._fleet.min_results and self.results >= self._fleet.min_results

    def _save(self, task: StepTask) -> None:
        self._context.store.tasks.save(self.run, self.step, task.note())

    def _look_whether_at_it(self, task: StepTask) -> None:
        """No offer is needed where the device has the task already, or its result."""
        if self._offers.is_at_it(task.device):
            task.found_at_work(self._context.clock())

    def _log_put_off(self, device: str) -> None:
        """The device goes on after a pause: what is left to it. Told once for each second more of its pauses."""
        now = self._context.clock()
        put_off_s = self._deadline.put_off_s(self._tasks.values(), now)
        if put_off_s < self._put_off_told_s.get(device, 0.0) + 1.0:
            return
        self._put_off_told_s[device] = put_off_s
        left_s = self._deadline.left_s(self._tasks.values(), now)
        text = "%s, step %d: goes on after a pause; the deadline is put off by %.1f s, %.1f s are left"
        log.info(text, device, self.step, put_off_s, left_s)

    def _needs_mask(self, task: StepTask) -> None:
        self._offers.note_mask(task.device, held=False)
        if task.with_mask:
            self._stumble(task, "needs_mask: the device did not find the mask in the blob that carries it")
            return
        task.with_mask = True
        task.offer_again()

    def _unfit(self, task: StepTask, reason: str) -> None:
        """Said once: the run asks its device no more until that starts anew."""
        if task.settled:
            return
        text = "run %s: %s can take no part until its agent starts anew: %s"
        log.warning(text, self.run, task.device, reason)
        task.reason, task.unfit = f"unfit: {reason}", True
        task.follow(PhaseEvent.GIVE_UP)
        self._save(task)

    def _stumble(self, task: StepTask, reason: str, *, pause: bool = False) -> None:
        if task.settled or (task.phase is TaskPhase.OFFERED and task.offer_is_due):
            return  # a duplicate: the next try is due already
        task.reason = reason
        log.info("%s, step %d: %s", task.device, self.step, reason)
        if task.retries >= self._fleet.max_retries:
            task.follow(PhaseEvent.GIVE_UP)
        else:
            pause_s = min(0.25 * 2.0 ** (task.retries + 1), MAX_DECLINE_PAUSE_S) if pause else 0.0
            task.try_again(self._context.clock() + pause_s)
        self._save(task)
