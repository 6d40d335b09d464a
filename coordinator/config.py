"""The coordinator's settings: coordinator.toml."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from tinyfleet.fedcore.broker_settings import BrokerSettings
from tinyfleet.fedcore.run_spec import Count, Positive, Settings


class AllowanceSettings(Settings, frozen=True):
    """What one device may ask of the coordinator, and how many that nobody knows: far above what an agent does."""

    messages_per_s: Annotated[float, Meta(gt=0.0)] = 200.0  # messages and chunks; more are dropped unread
    messages_at_once: Annotated[float, Meta(ge=1.0)] = 2000.0
    bytes_per_s: Annotated[float, Meta(gt=0.0)] = 32e6
    bytes_at_once: Annotated[float, Meta(ge=1.0)] = 256e6
    hellos_per_s: Annotated[float, Meta(gt=0.0)] = 1.0  # each is a write to the disk
    hellos_at_once: Annotated[float, Meta(ge=1.0)] = 30.0
    blob_copies: Annotated[float, Meta(ge=1.0)] = 4.0  # of one task's blob to one device at once
    blob_copy_s: Annotated[float, Meta(gt=0.0)] = 3.0  # after that, another copy in so many seconds
    strangers_per_s: Annotated[float, Meta(gt=0.0)] = 1000.0  # messages of all that nobody has accepted, together
    strangers_at_once: Annotated[float, Meta(ge=1.0)] = 2000.0
    auto_accepted: Positive = 1024  # devices that auto_accept lets in; who comes after them waits for the operator
    pending: Positive = 256  # devices that nobody has accepted; beyond that the oldest is forgotten
    faults: Positive = 16  # messages that are none, or break what handles them, within quarantine_s
    quarantine_s: Annotated[float, Meta(gt=0.0)] = 60.0  # how long such a device's messages are dropped unread


class CoordinatorConfig(Settings, frozen=True):
    """Everything about the coordinator that is not part of a run."""

    broker: BrokerSettings = field(default_factory=BrokerSettings)
    authority: str = (
        ""  # directory of the fleet's certificates (`tinyfleet ca init`); empty: authority in the state's
    )
    auto_accept: bool = False  # accept every new device at once: for demos and closed networks
    heartbeat_s: Annotated[float, Meta(ge=0.5, le=3600.0)] = 5.0  # three missed: the device is offline
    reoffer_s: Annotated[float, Meta(gt=0.0)] = 10.0  # an offer without an answer is sent again
    chunk_timeout_s: Annotated[float, Meta(gt=0.0)] = 5.0  # missing chunks are asked for again
    step_attempts: Positive = 5  # deadlines that may pass with too few results before the run fails
    keep_states: Positive = 3  # states before the latest that stay on disk while a run is under way
    max_result_bytes: Annotated[int, Meta(ge=1)] = 256 * 2**20  # a larger result is refused unread
    evaluate: bool = True  # measure every state of the training stage on held-out test data
    engine: str = "auto"  # of the engine process: native | torch | torch-cuda | auto (native, else torch)
    threads: Positive = 1  # of the engine process
    engine_restarts: Count = 5  # how often in a row an engine process that died is started again
    engine_hung_s: Annotated[float, Meta(gt=0.0)] = 120.0  # it has work and takes no processor time: it is killed
    nice: Count = 5  # how far the engine process steps back behind others
    limits: AllowanceSettings = AllowanceSettings()
