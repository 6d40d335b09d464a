"""What a private run may still release, and what it has: kept on disk before a state is announced."""

from __future__ import annotations

import msgspec

from tinyfleet.coordinator.privacy.accountant import epsilon
from tinyfleet.coordinator.privacy.ledgers import Ledger, Ledgers, Release
from tinyfleet.fedcore.privacy.noise import StepPrivacy
from tinyfleet.fedcore.run_spec import RunSpec


class PrivacyBudget:
    """The ledger of one run; of one that is not private it says nothing and keeps nothing."""

    def __init__(self, ledgers: Ledgers, run: str, spec: RunSpec) -> None:
        self._ledgers, self._run = ledgers, run
        self._settings = spec.privacy
        self.private = spec.privacy.mode != "none"
        self._ledger = Ledger(spec.privacy)
        if self.private:
            self._ledger = ledgers.get(run) or self._ledger

    @property
    def terms(self) -> StepPrivacy | None:
        """What the run's steps need; None where it is not private."""
        if not self.private:
            return None
        return StepPrivacy(
            self._settings, self._ledgers.key(self._run) if self._settings.mode == "central" else b""
        )

    def spent_out(self) -> str:
        """Why no further step may be opened; empty: one may."""
        if not self.private or not self._settings.epsilon:
            return ""
        coming = epsilon(self._settings, len(self._ledger.releases) + 1)
        if coming <= self._settings.epsilon:
            return ""
        return (
            f"privacy budget: epsilon {self._ledger.epsilon:.3g} is spent, and one more step would make it "
            f"{coming:.3g}; privacy.epsilon is {self._settings.epsilon:g}"
        )

    def released(self, step: int, sha256: str) -> None:
        """A state is about to be announced. One that was released before, and is computed again, costs nothing."""
        if not self.private or self._ledger.has(sha256):
            return
        spent = epsilon(self._settings, len(self._ledger.releases) + 1)
        self._ledger = msgspec.structs.replace(
            self._ledger, releases=(*self._ledger.releases, Release(step, sha256, spent))
        )
        self._ledgers.put(self._run, self._ledger)
