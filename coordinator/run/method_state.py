"""The method's side of a run: its state, the task that comes of it, and the masks that results are read with."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from tinyfleet.coordinator.step.aggregate import StepFold, StoredResult
from tinyfleet.fedcore.arrays import Mask
from tinyfleet.fedcore.methods.method import Method
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.privacy.noise import StepPrivacy
from tinyfleet.fedcore.run_spec import FleetSettings
from tinyfleet.fedcore.sparsity.mask import density, mask_digest


class MethodState:
    """The state after the last finished step; earlier masks are kept for as long as late results count."""

    def __init__(
        self, method: Method, state: Payload, fleet: FleetSettings, privacy: StepPrivacy | None = None
    ) -> None:
        self.method = method
        self._fleet = fleet
        self._privacy = privacy
        self._state = state
        self._task: tuple[int, Payload] | None = None  # of the coming step
        self._masks: OrderedDict[str, Mask] = OrderedDict()

    # -- what is known ------------------------------------------------------------------

    @property
    def step(self) -> int:
        """The coming step."""
        return self._integer("step")

    @property
    def round(self) -> int:
        return self._integer("round")

    @property
    def training(self) -> bool:
        """True once the state is a model: selection stages have none to evaluate."""
        return self.method.measurable(str(self._state.meta.get("stage")))

    @property
    def trained(self) -> bool:
        """True for a model after a training round: one that may be the run's result."""
        return self.round > 0 and self.training

    @property
    def members(self) -> tuple[str, ...] | None:
        """The only devices that the coming step is for; None: whoever is chosen."""
        return self.method.members(self._state)

    @property
    def finished(self) -> bool:
        """True after the last step."""
        return self.method.finished(self._state)

    def density(self) -> float:
        """Of the model as it would be deployed."""
        return density(self.method.deployed(self._state).mask)

    def metric(self, name: str) -> float | None:
        """What the devices measured in the last step, as a mean; None where they did not."""
        metrics = self._state.meta.get("metrics")
        value = metrics.get(name) if isinstance(metrics, dict) else None
        return float(value) if isinstance(value, int | float) else None

    def addressed(self, device: str) -> dict[str, bytes]:
        """What of the coming step's task is for ``device`` alone."""
        return self.method.addressed(self._state, device)

    # -- steps --------------------------------------------------------------------------

    def task(self) -> Payload:
        """The task of the coming step, made once."""
        if self._task is None or self._task[0] != self.step:
            self._task = self.step, self.method.configure_round(self._state)
        return self._task[1]

    def begin_fold(self, stored: Callable[[], Iterable[StoredResult]]) -> StepFold:
        """The fold of the coming step, ``stored`` results included; results may refer to its task's mask."""
        self._keep_mask(self.task())
        return StepFold(self.method, self._state, self._masks.get, stored, self._fleet, self._privacy)

    def recall(self, earlier: Payload) -> None:
        """Results of the step that began at the state ``earlier`` may still count: keep its task's mask."""
        self._keep_mask(self.method.configure_round(earlier))

    def after(self, state: Payload) -> MethodState:
        """The same once the coming step has finished with ``state``."""
        following = MethodState(self.method, state, self._fleet, self._privacy)
        following._masks = self._masks
        return following

    def _keep_mask(self, task: Payload) -> None:
        digest = mask_digest(task.mask)
        self._masks[digest] = task.mask
        self._masks.move_to_end(digest)
        while len(self._masks) > self._fleet.staleness + 1:
            self._masks.popitem(last=False)

    def _integer(self, key: str) -> int:
        value = self._state.meta[key]
        if not isinstance(value, int):
            raise TypeError(f"state has {key} {value!r}, not an integer")
        return value
