"""What a private run spends: epsilon by Google's ``dp-accounting``, which the extra ``privacy`` brings.

Every release is one discrete Gaussian mechanism. Its Rényi divergence of any order alpha is at most
alpha / (2 z^2), as of the continuous one (Canonne, Kamath and Steinke 2020, theorem 14), z being the noise in
sensitivities: so the accountant of Rényi divergences is right for it, and tighter ones for the continuous
Gaussian are not used. Releases of one run compose. No amplification by sampling is counted: who takes part is
neither random by a secret coin nor hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

import msgspec

from tinyfleet.fedcore.errors import ConfigError, Unavailable
from tinyfleet.fedcore.run_spec import PrivacySettings, RunSpec

# Central: neighbours are a device's data and none of it, a zero update: one clip apart. Local: any two data sets of
# the device: two clips.
SENSITIVITY = {"central": 1.0, "local": 2.0}


def epsilon(privacy: PrivacySettings, releases: int) -> float:
    """Epsilon at the run's delta after so many releases. Raises ``Unavailable`` without the library."""
    if not releases:
        return 0.0
    return _epsilon(privacy.noise / SENSITIVITY[privacy.mode], privacy.delta, releases)


def affordable(privacy: PrivacySettings, most: int) -> int:
    """How many releases, ``most`` at most, the run's budget allows."""
    if not privacy.epsilon:
        return most
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if epsilon(privacy, middle) <= privacy.epsilon:
            low = middle
        else:
            high = middle - 1
    return low


def calibrated(spec: RunSpec) -> RunSpec:
    """``spec`` with the least noise by which all its rounds stay within its budget, where it names none.

    Raises ``Unavailable`` without the library, which every private run needs.
    """
    privacy = spec.privacy
    if privacy.mode == "none":
        return spec
    _library()
    if privacy.noise or not privacy.epsilon:
        return spec
    low, high = 0.0, 1.0
    while _spent(spec, high) > privacy.epsilon:
        low, high = high, 2 * high
        if high > 1e4:
            raise ConfigError(
                f"privacy.epsilon {privacy.epsilon:g} needs more noise than 10000 clips for {spec.training.rounds} "
                "rounds; raise it"
            )
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if _spent(spec, middle) <= privacy.epsilon else (middle, high)
    return msgspec.structs.replace(spec, privacy=msgspec.structs.replace(privacy, noise=high))


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a private run would spend before it starts."""

    mode: str
    clip: float
    noise: float
    delta: float
    rounds: int  # of the spec
    affordable: int  # of them that its budget allows
    epsilon: float  # after those

    def __str__(self) -> str:
        said = (
            f"{self.mode} noise of {self.noise:.4g} clips: {self.affordable} rounds spend epsilon "
            f"{self.epsilon:.3g} at delta {self.delta:g}"
        )
        return said if self.affordable == self.rounds else f"{said}; there it stops, before round {self.rounds}"


def outlook(spec: RunSpec) -> Outlook | None:
    """The outlook of a run; None where it is not private. Raises ``Unavailable`` without the library."""
    spec, rounds = calibrated(spec), spec.training.rounds
    privacy = spec.privacy
    if privacy.mode == "none":
        return None
    most = affordable(privacy, rounds)
    return Outlook(privacy.mode, privacy.clip, privacy.noise, privacy.delta, rounds, most, epsilon(privacy, most))


def _spent(spec: RunSpec, noise: float) -> float:
    return epsilon(msgspec.structs.replace(spec.privacy, noise=noise), spec.training.rounds)


@lru_cache(maxsize=1024)
def _epsilon(noise: float, delta: float, releases: int) -> float:
    library = _library()
    accountant = library.rdp.RdpAccountant()
    accountant.compose(library.GaussianDpEvent(noise), releases)
    return float(accountant.get_epsilon(delta))


def _library() -> ModuleType:
    try:
        import dp_accounting
        import dp_accounting.rdp
    except ImportError as error:
        raise Unavailable(
            f"a private run is accounted by dp-accounting, which is not installed here ({error}): "
            "pip install 'tinyfleet[privacy]'"
        ) from None
    module: ModuleType = dp_accounting
    return module
