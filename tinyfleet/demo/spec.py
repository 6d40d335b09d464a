"""The demo's runs: the one place where its defaults stand."""

from __future__ import annotations

from typing import Any

from tinyfleet.fedcore.run_spec import (
    DataSettings,
    FleetSettings,
    ModelSettings,
    PartitionSettings,
    RunSpec,
    TrainingSettings,
    WireSettings,
)

METHOD = "tinyfleet"
DENSITY = 0.05
ROUNDS = 10
AGENTS = 4
SEED = 0
SOURCE = "mnist5k"

LIMIT = 5_000  # training samples of the whole fleet: larger data sets would not end in minutes

QUICK_ROUNDS = 4
QUICK_LIMIT = 600  # training samples of the whole fleet


def demo_spec(
    method: str = METHOD,
    rounds: int = ROUNDS,
    density: float = DENSITY,
    seed: int = SEED,
    data: str = SOURCE,
    agents: int = AGENTS,
    *,
    limit: int = 0,
) -> RunSpec:
    """One run of the demo: ``method`` on ``data`` split over ``agents`` devices (Dirichlet, alpha 0.5).

    ``limit`` is the number of training samples to use at most (0: all). Raises ``DataError`` where
    ``data`` cannot be read: the model's shape comes from it.
    """
    settings = DataSettings(
        source=data,
        public_fraction=0.1,
        test_fraction=0.2,
        limit=limit,
        partition=PartitionSettings(kind="dirichlet", alpha=0.5, devices=agents, seed=seed),
    )
    input_shape, classes = _shape(data)
    return RunSpec(
        name=f"demo-{method}",
        seed=seed,
        method=_method(method, rounds, density),
        model=ModelSettings(name="small_cnn", input_shape=input_shape, classes=classes),
        training=TrainingSettings(
            rounds=rounds,
            local_epochs=1,
            batch=16,
            learning_rate=0.05,
            final_learning_rate=0.005,
            momentum=0.9,
            weight_decay=5e-4,
            pretrain_epochs=40,
            pretrain_learning_rate=0.05,
        ),
        data=settings,
        # The demo waits for its agents before it submits; a run must start without one that died since.
        fleet=FleetSettings(min_devices=1, min_results=1, deadline_s=60.0, grace_s=15.0),
        wire=WireSettings(precision="fp16"),
    )


def _method(name: str, rounds: int, density: float) -> dict[str, Any]:
    """The method's settings; FedTiny's schedule is the paper's, squeezed from 300 rounds into the demo's."""
    if name == "fedavg":
        return {"name": name}
    if name == "fedtiny":
        # A small network's layers differ in size by a factor of ten: ERK densities suit it better than
        # the paper's uniform ones, and ten candidates give the selection a choice.
        return {
            "name": name,
            "density": density,
            "allocation": "erk",
            "candidates": 10,
            "interval": 1,
            "stop": max(1, round(0.7 * rounds)),
        }
    if name in {"fedmef", "tinyfleet"}:
        schedule = {"interval": 1, "stop": max(1, round(0.7 * rounds))}
        epochs = {"pruning_epochs": 40} if name == "tinyfleet" else {}
        return {"name": name, "density": density, **schedule, **epochs}
    return {"name": name, "density": density}


def _shape(source: str) -> tuple[tuple[int, ...], int]:
    """Input shape and number of classes; only the user's own data is read for it."""
    known = {"mnist5k": ((1, 28, 28), 10), "fashion-mnist": ((1, 28, 28), 10), "digits": ((1, 8, 8), 10)}
    if source in known:
        return known[source]
    from tinyfleet.fedcore.datasets.registry import load

    train = load(source).train
    return tuple(int(size) for size in train.x.shape[1:]), train.classes
