"""The offers of one step: which variant of its task a device is sent, and when."""

from __future__ import annotations

from typing import Any

from tinyfleet.coordinator.step.context import Context
from tinyfleet.coordinator.step.step_task import StepTask
from tinyfleet.coordinator.wire.task_blobs import TaskBlobs
from tinyfleet.fedcore.protocol.messages import LeaseExtended, TaskOffer

EXTEND_BEFORE_S = 5.0  # the end of a lease that the step outlasts


class StepOffers:
    """Offers one step's task to devices: without its mask to those that hold it already."""

    def __init__(
        self, context: Context, run: str, step: int, base_sha256: str, spec: dict[str, Any], blobs: TaskBlobs
    ) -> None:
        self._context = context
        self._run, self._step, self._base_sha256 = run, step, base_sha256
        self._spec = spec
        self._blobs = blobs

    @property
    def digests(self) -> set[str]:
        """The task blobs that devices may ask for."""
        return self._blobs.digests

    def note_mask(self, device: str, *, held: bool) -> None:
        """A device has decoded the task, or said that it lacks its mask."""
        if self._blobs.mask_digest is not None:
            self._context.registry.note_mask(device, self._blobs.mask_digest, held=held)

    def is_at_it(self, device: str) -> bool:
        """True where the device said that it is at this very task, or has its result."""
        return self._context.registry.at(device) == (self._run, self._step)

    def send_if_due(self, task: StepTask, now: float, lease_s: float) -> bool:
        """Send a task's offer where it is due; True where it was sent."""
        reoffer_s = self._context.config.reoffer_s
        if task.due(now, reoffer_s, is_at_it=self.is_at_it(task.device)) and self._send(task, lease_s):
            task.sent(now)
            task.lease_until = now + lease_s
            return True
        return False

    def extend_if_due(self, task: StepTask, now: float, lease_s: float) -> None:
        """Tell a device at work that the step waits for it longer than it knows."""
        left_s = None if task.lease_until is None else task.lease_until - now
        if left_s is not None and (left_s >= EXTEND_BEFORE_S or lease_s <= left_s + 1.0):
            return
        if self._context.outgoing.send(task.device, LeaseExtended(self._run, self._step, lease_s)):
            task.lease_until = now + lease_s

    def _send(self, task: StepTask, lease_s: float) -> bool:
        digest = self._blobs.mask_digest
        held = digest is not None and self._context.registry.holds_mask(task.device, digest)
        offer = TaskOffer(
            run=self._run,
            step=self._step,
            stage=self._blobs.stage,
            lease_s=lease_s,
            manifest=self._blobs.manifest(task.device, with_mask=task.with_mask or not held),
            spec=self._spec,
            base=self._base_sha256,
            local_steps=task.local_steps,
            activation_keep=task.activation_keep,
        )
        return self._context.outgoing.send(task.device, offer)
