"""Any method whose folds are sums, with its results summed securely: each of its steps becomes four.

The wrapped method sees its own states, tasks and folds alone, and its sums are those of a plain run, bit for bit.
An exchange that cannot be finished, for too many were lost or a term did not fit into the ring, begins anew with
fresh keys at the same state of the method.
"""

from __future__ import annotations

import logging
import secrets
from typing import Any

import msgspec

from tinyfleet.fedcore.accounting import Cost
from tinyfleet.fedcore.datasets.dataset import Dataset, DeviceData
from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.methods.method import Control, Fold, Method
from tinyfleet.fedcore.methods.parts.checks import checked_samples, integer
from tinyfleet.fedcore.methods.summing import phases
from tinyfleet.fedcore.methods.summing.exchange_fold import ExchangeFold
from tinyfleet.fedcore.methods.summing.phases import ExchangeState, Phase, put_together, taken_apart
from tinyfleet.fedcore.methods.summing.summands import fill, layout_of, terms_of
from tinyfleet.fedcore.payload import Json, Payload
from tinyfleet.fedcore.run_spec import SecureAggregationSettings
from tinyfleet.fedcore.secure_sum.errors import OutOfReach, SecureSumError
from tinyfleet.fedcore.secure_sum.exchange import Exchange
from tinyfleet.fedcore.secure_sum.messages import HeldShares, Roster, Survivors, Unmasking, decode, encode
from tinyfleet.fedcore.secure_sum.participant import Participant
from tinyfleet.fedcore.training.engine import Engine, StepSettings

log = logging.getLogger(__name__)

ROOT, DIGEST, MEMBERS, SURVIVORS = "root", "digest", "members", "survivors"  # of what a device keeps
MAX_FAILURES = 8  # exchanges of one step, after which the run ends


class SecureMethod(Method):
    """``inner`` with its results summed securely; where that fails again and again, ``SecureSumError``."""

    def __init__(self, inner: Method, settings: SecureAggregationSettings) -> None:
        super().__init__(inner.settings, inner.problem)
        self.inner, self._secure = inner, settings
        self.name = inner.name  # type: ignore[misc]
        self.upload_precision = inner.upload_precision  # type: ignore[misc]

    # -- coordinator half ---------------------------------------------------------------

    def initial_state(self, engine: Engine, public: Dataset) -> Payload:
        return self.started(self.inner.initial_state(engine, public))

    def started(self, inner: Payload) -> Payload:
        """The state before the first exchange, of one of the wrapped method's."""
        # The run's id is not known here; what is needed is that no two runs share it.
        return put_together(inner, ExchangeState(Exchange(secrets.token_hex(8), 0), Phase.KEYS), 0, {})

    def configure_round(self, state: Payload) -> Payload:
        inner, standing = taken_apart(state)
        whole = self.inner.configure_round(inner)
        if standing.phase is not Phase.RESULTS:
            whole = Payload(whole.meta)  # nobody trains: the model stays at home
        # A device keeps the roster from then on.
        sent = {phases.ROSTER: state.raw[phases.ROSTER]} if standing.phase is Phase.SHARES else {}
        return put_together(whole, standing, integer(state, "step"), sent)

    def addressed(self, state: Payload, device: str) -> dict[str, bytes]:
        standing = taken_apart(state).standing
        if standing.phase is not Phase.UNMASK:
            return {}
        sealed = phases.sealed_for(device, state.raw[phases.ROSTER], standing.dealt, state.raw[phases.SEALED])
        return {phases.HELD: encode(HeldShares(standing.exchange, sealed))}

    def members(self, state: Payload) -> tuple[str, ...] | None:
        standing = taken_apart(state).standing
        return None if standing.phase is Phase.KEYS else standing.names

    def measurable(self, stage: str) -> bool:
        return stage.endswith(f": {Phase.KEYS.value}") and self.inner.measurable(stage.rpartition(": ")[0])

    def begin_fold(self, state: Payload) -> Fold:
        inner, standing = taken_apart(state)
        return ExchangeFold(standing, state.raw, lambda roster: self._layout(inner, standing, roster))

    def fold(self, fold: Any, result: Payload) -> None:
        fold.add(result)

    def next_state(self, state: Payload, fold: Any) -> Payload:
        return self.finish_round(state, fold)  # the wrapped method's optimiser has its turn with the sum

    def finish_round(self, state: Payload, fold: Any) -> Payload:
        inner, standing = taken_apart(state)
        step = integer(state, "step") + 1
        try:
            match standing.phase:
                case Phase.KEYS:
                    roster = fold.roster(self._secure.neighbours, self._secure.threshold)
                    following = _on(standing, Phase.SHARES, names=roster.names)
                    return put_together(inner, following, step, {phases.ROSTER: encode(roster)})
                case Phase.SHARES:
                    names, sealed = fold.sealed()
                    raw = {phases.ROSTER: state.raw[phases.ROSTER], phases.SEALED: sealed}
                    following = _on(standing, Phase.RESULTS, names=names, dealt=names)
                    return put_together(inner, following, step, raw)
                case Phase.RESULTS:
                    survivors, total = fold.masked_sum()
                    raw = {name: state.raw[name] for name in (phases.ROSTER, phases.SEALED)}
                    following = _on(standing, Phase.UNMASK, names=survivors)
                    return put_together(inner, following, step, {**raw, phases.SUM: total})
                case Phase.UNMASK:
                    return self._unmasked(inner, standing, step, fold)
        except OutOfReach as error:
            log.info("step %d: %s; begun anew with wider sums", step - 1, error)
            return self._anew(inner, standing, step, wide=(*standing.wide, *error.names))
        except SecureSumError as error:
            if standing.failures + 1 >= MAX_FAILURES:
                raise
            log.warning("step %d: %s; begun anew with fresh keys", step - 1, error)
            return self._anew(inner, standing, step, failures=standing.failures + 1)

    def _unmasked(self, inner: Payload, standing: ExchangeState, step: int, fold: ExchangeFold) -> Payload:
        """The method's next state, before the next exchange."""
        own = self.inner.begin_fold(inner)
        fill(self.inner.sum_stage(self.inner.configure_round(inner)), own, fold.total(), len(standing.names))
        return self._anew(self.inner.next_state(inner, own), standing, step)

    def _anew(
        self, inner: Payload, standing: ExchangeState, step: int, *, wide: tuple[str, ...] = (), failures: int = 0
    ) -> Payload:
        """A sum that once had to be wide stays so: else its steps would all be done twice."""
        exchange = Exchange(standing.exchange.run, step)
        return put_together(inner, ExchangeState(exchange, Phase.KEYS, wide or standing.wide, failures), step, {})

    def _layout(self, inner: Payload, standing: ExchangeState, roster: Roster) -> Any:
        stage = self.inner.sum_stage(self.inner.configure_round(inner))
        return layout_of(stage, roster.samples, standing.wide)

    def finished(self, state: Payload) -> bool:
        inner, standing = taken_apart(state)
        return standing.phase is Phase.KEYS and self.inner.finished(inner)

    def deployed(self, state: Payload) -> Payload:
        return self.inner.deployed(taken_apart(state).inner)

    # -- what a task costs a device ------------------------------------------------------

    def cost(self, task: Payload, samples: int, development: int) -> Cost:
        inner, standing = taken_apart(task)
        if standing.phase is not Phase.RESULTS:
            return Cost(0.0, 0)
        return self.inner.cost(inner, samples, development)

    def needs_engine(self, task: Payload) -> bool:
        return taken_apart(task).standing.phase is Phase.RESULTS

    def step_settings(self, learning_rate: float, control: Control) -> StepSettings:
        return self.inner.step_settings(learning_rate, control)

    # -- device half --------------------------------------------------------------------

    def run(self, task: Payload, engine: Engine, data: DeviceData, control: Control) -> Payload:
        """One phase on one device. What it says is on its disk before it is sent."""
        inner, standing = taken_apart(task)
        if standing.phase is Phase.KEYS:
            return self._advertise(task, standing, data, control)
        kept = Kept.of(control.memory.read(integer(task, "step") + 1), standing, data.name)
        match standing.phase:
            case Phase.SHARES:
                kept.pin(phases.ROSTER, task.raw)
                name, message = phases.DEALT, encode(kept.participant.deal(kept.roster))
            case Phase.UNMASK:
                kept.pin(phases.HELD, task.raw)
                name, message = phases.SHARES, encode(kept.revealed(standing))
            case _:
                kept.pin(MEMBERS, {MEMBERS: msgspec.json.encode(standing.dealt)})
                result = self.inner.run(inner, engine, data, control)
                try:
                    name, message = phases.VECTOR, self._masked(inner, standing, result, kept)
                except OutOfReach as error:
                    log.info("%s", error)
                    return _reply(task, data, phases.VECTOR, b"", {phases.OUT_OF_REACH: list(error.names)})
        control.memory.write(integer(task, "step"), kept.payload())
        return _reply(task, data, name, message)

    def _masked(self, inner: Payload, standing: ExchangeState, result: Payload, kept: Kept) -> bytes:
        samples, wide = kept.roster.samples, standing.wide
        stage = self.inner.sum_stage(inner)
        layout = layout_of(stage, samples, wide)
        words = layout.words(terms_of(stage, result, checked_samples(result), samples, wide))
        return kept.participant.masked(kept.roster, standing.dealt, words, layout)

    def _advertise(self, task: Payload, standing: ExchangeState, data: DeviceData, control: Control) -> Payload:
        """Fresh keys, or those of this very exchange where the task is a repeated one."""
        step = integer(task, "step")
        remembered = control.memory.read(step + 1)
        if remembered is None or remembered.meta.get(phases.EXCHANGE) != _key(standing):
            remembered = Payload({phases.EXCHANGE: _key(standing)}, raw={ROOT: control.entropy(32)})
            control.memory.write(step, remembered)
        participant = Kept.of(remembered, standing, data.name).participant
        samples = len(data.train) + len(data.development)
        return _reply(task, data, phases.ADVERT, encode(participant.advert()), {"samples": samples})


class Kept:
    """What a device keeps of an exchange between its phases. What it once took for true stays so."""

    def __init__(self, participant: Participant, meta: dict[str, Json], raw: dict[str, bytes]) -> None:
        self.participant = participant
        self._meta, self._raw = meta, raw

    @classmethod
    def of(cls, remembered: Payload | None, standing: ExchangeState, device: str) -> Kept:
        """Raises ``ResultError`` where the device was not there when keys were advertised."""
        if remembered is None or remembered.meta.get(phases.EXCHANGE) != _key(standing):
            raise ResultError(
                "this device has no keys of this exchange: it was not there when they were advertised"
            )
        names: Any = remembered.meta.get(SURVIVORS, [])
        participant = Participant(
            device,
            standing.exchange,
            remembered.raw[ROOT],
            input_digest=remembered.raw.get(DIGEST, b""),
            survivors=tuple(names),
        )
        return cls(participant, dict(remembered.meta), dict(remembered.raw))

    def pin(self, name: str, raw: dict[str, bytes]) -> None:
        """Take a message for true. Raises ``ResultError`` where it is another than before."""
        message = raw.get(name, b"")
        if self._raw.setdefault(name, message) != message:
            raise ResultError(f"the coordinator sent another {name} before: both would tell it more than a sum")

    @property
    def roster(self) -> Roster:
        return decode(self._raw.get(phases.ROSTER, b""), Roster)

    def revealed(self, standing: ExchangeState) -> Unmasking:
        """Raises ``SecureSumError`` where the survivors, or those that dealt, are not those of before."""
        self.pin(MEMBERS, {MEMBERS: msgspec.json.encode(standing.dealt)})
        held = decode(self._raw.get(phases.HELD, b""), HeldShares)
        survivors = Survivors(standing.exchange, standing.names)
        return self.participant.reveal(self.roster, standing.dealt, held, survivors)

    def payload(self) -> Payload:
        """All of it, as it is kept."""
        participant = self.participant
        meta: dict[str, Json] = self._meta | {SURVIVORS: list(participant.survivors)}
        return Payload(meta, raw=self._raw | {DIGEST: participant.input_digest})


def _on(standing: ExchangeState, phase: Phase, **changes: tuple[str, ...]) -> ExchangeState:
    found: ExchangeState = msgspec.structs.replace(standing, phase=phase, **changes)
    return found


def _key(standing: ExchangeState) -> Json:
    found: Json = msgspec.to_builtins(standing.exchange)
    return found


def _reply(
    task: Payload, data: DeviceData, name: str, message: bytes, more: dict[str, Json] | None = None
) -> Payload:
    """Of every result's meta, samples are public here: in all phases but the first they say nothing."""
    meta: dict[str, Json] = {"step": task.meta["step"], "samples": 1, phases.DEVICE: data.name}
    return Payload(meta | (more or {}), raw={name: message})
