"""LotteryFL: personal masks that shrink while the accuracy holds, rewinding, and the mean over holders."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.fedcore.methods.problems import dataset, devices, problem
from tests.fedcore.training.engines import new_engine
from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.methods.lotteryfl import LotteryFl, LotteryFlSettings, Ticket
from tinyfleet.fedcore.methods.method import Control, device_seed
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol.codec import decode, encode
from tinyfleet.fedcore.sparsity.mask import active_counts, density, mask_digest

W = "conv0.weight"


class Memory:
    """Numbered payloads, as the device keeps them: lossless blobs."""

    def __init__(self):
        self.blobs = {}

    def read(self, step):
        earlier = [kept for kept in self.blobs if kept < step]
        return decode(self.blobs[max(earlier)]) if earlier else None

    def write(self, step, payload):
        self.blobs[step] = encode(payload, precision="fp32")


@pytest.fixture(scope="module")
def engine(engine_name):
    return new_engine(engine_name)


def lottery(rounds=6, **settings):
    return LotteryFl(LotteryFlSettings(**{"density": 0.1, "accuracy_threshold": 0.0, **settings}), problem(rounds))


def stepped(state, step):
    return Payload({**state.meta, "step": step, "round": step}, state.params, state.mask)


def before_training(method, engine, task, device, memory, monkeypatch):
    """Parameters and mask with which the device begins to train, and its result."""
    begun = {}
    train = method.train

    def spy(task, engine, data, rng, control):
        begun.update(engine.params())
        assert len(data) == len(device.train), "the development set is not trained on"
        assert np.array_equal(data.x, device.train.x)
        return train(task, engine, data, rng, control)

    with monkeypatch.context() as patched:
        patched.setattr(method, "train", spy)
        result = method.run(task, engine, device, Control(memory=memory))
    return begun, result


def test_each_layer_loses_its_smallest_active_weights_down_to_the_target():
    method = lottery(density=0.3, prune_rate=0.25)
    method.targets = {"a": 3, "b": 4}
    params = {"a": np.array([5, -1, 4, 2, 3, 9], np.float32), "b": np.array([1, 2, -3, 4, 0], np.float32)}
    mask = {"a": np.array([True, True, True, True, True, False]), "b": np.array([True, True, True, True, True])}
    once = method.prune(params, mask)
    assert once["a"].tolist() == [True, False, True, False, True, False], "ceil(0.25 x 5) go, none comes back"
    assert once["b"].tolist() == [True, True, True, True, False]
    assert method.prunable(mask)
    assert not method.prunable(once)
    assert all(np.array_equal(once[name], again) for name, again in method.prune(params, once).items())


@pytest.mark.parametrize("pretrained", [True, False])
def test_rewinding_restores_exactly_the_initial_values(engine, monkeypatch, pretrained):
    method, device, memory = lottery(pretrained=pretrained), devices(1)[0], Memory()
    first = method.initial_state(engine, dataset(96, 1))
    if not pretrained:
        initial = method.problem.graph.initial_params(0)
        assert all(np.array_equal(initial[name], values) for name, values in first.params.items())
    previous = density({name: np.ones(size, bool) for name, size in method.sizes.items()})
    for step in range(3):
        rng = np.random.default_rng(step)
        noisy = {name: values + rng.random(values.shape, np.float32) for name, values in first.params.items()}
        state = first if step == 0 else Payload(first.meta, noisy, {})
        task = method.configure_round(stepped(state, step))
        begun, result = before_training(method, engine, task, device, memory, monkeypatch)
        for name, values in first.params.items():
            expected = values * result.mask[name] if name in result.mask else values
            assert np.array_equal(begun[name], expected), name
        assert density(result.mask) == pytest.approx(0.8 ** (step + 1), abs=0.01)
        assert density(result.mask) < previous
        previous = density(result.mask)
        kept = memory.read(step + 1)
        assert mask_digest(kept.mask) == mask_digest(result.mask)
        assert bool(kept.params) == pretrained, "what the seed gives is not stored"


def test_under_the_threshold_nothing_is_pruned_or_rewound(engine, monkeypatch):
    method, device, memory = lottery(accuracy_threshold=1.0), devices(1)[0], Memory()
    device.development.y[:] = (device.development.y + 1) % 3  # never all right
    state = method.initial_state(engine, dataset(96, 1))
    task = method.configure_round(stepped(state, 4))
    begun, result = before_training(method, engine, task, device, memory, monkeypatch)
    assert density(result.mask) == 1.0
    assert all(np.array_equal(begun[name], values) for name, values in state.params.items())
    assert 0.0 <= result.meta["accuracy"] < 1.0
    assert memory.read(5) is not None


def test_a_known_mask_is_applied_to_the_received_model(engine, monkeypatch):
    method, device, memory = lottery(accuracy_threshold=1.0), devices(1)[0], Memory()
    device.development.y[:] = (device.development.y + 1) % 3
    state = method.initial_state(engine, dataset(96, 1))
    mask = method.prune(state.params, method.ticket(method.configure_round(state), Control()).mask)
    method.remember(state, Control(memory=memory), Ticket(mask, state.params))
    task = method.configure_round(stepped(state, 1))
    begun, result = before_training(method, engine, task, device, memory, monkeypatch)
    assert mask_digest(result.mask) == mask_digest(mask)
    assert not any(
        begun[name][~active].any() or result.params[name][~active].any() for name, active in mask.items()
    )
    assert np.array_equal(begun[W][mask[W]], task.params[W][mask[W]])


def test_a_repeated_task_gives_the_same_result(engine):
    method, device, memory = lottery(), devices(1)[0], Memory()
    state = method.initial_state(engine, dataset(96, 1))
    for step in range(2):
        task = method.configure_round(stepped(state, step))
        once, again = (encode(method.run(task, engine, device, Control(memory=memory))) for _ in range(2))
        assert once == again


def test_a_dense_device_trains_as_the_engine_alone_does(engine):
    method, device = lottery(accuracy_threshold=1.0), devices(1)[0]
    device.development.y[:] = (device.development.y + 1) % 3
    state = method.initial_state(engine, dataset(96, 1))
    task = method.configure_round(state)
    result = method.run(task, engine, device, Control())
    engine.load(method.problem.graph, task.params, {})
    method.train(task, engine, device.train, device_seed(0, task, device.name), Control())
    assert all(result.params[name].tobytes() == values.tobytes() for name, values in engine.params().items())
    assert result.meta["samples"] == len(device.train)


# -- the coordinator ---------------------------------------------------------------------


def result_of(method, active, value, samples, accuracy):
    graph = method.problem.graph
    mask = {name: np.ones(graph.params[name].shape, np.bool_) for name in graph.maskable}
    own = np.zeros(mask[W].size, np.bool_)
    own[active] = True
    mask[W] = own.reshape(mask[W].shape)
    params = {name: np.full(spec.shape, value, np.float32) for name, spec in graph.params.items()}
    params[W] = params[W] * mask[W]
    numbers = {"loss": 1.0, "accuracy": accuracy, "density": density(mask)}
    return Payload({"step": 0, "samples": samples, **numbers}, params, mask)


def test_the_mean_is_over_holders_and_the_rest_keeps_its_value(engine):
    method = lottery()
    state = method.initial_state(engine, dataset(96, 1))
    target = method.targets[W]
    fold = method.begin_fold(state)
    few, more = np.arange(target), np.arange(5, target + 15)
    method.fold(fold, result_of(method, few, 2.0, 10, 0.5))
    method.fold(fold, result_of(method, more, -4.0, 30, 0.9))
    after = method.finish_round(state, fold)
    flat, old = after.params[W].reshape(-1), state.params[W].reshape(-1)
    assert (flat[:5] == 2.0).all()
    assert (flat[5:target] == -2.5).all()
    assert (flat[target : target + 15] == -4.0).all()
    assert np.array_equal(flat[target + 15 :], old[target + 15 :]), "nobody holds them"
    assert (after.params["stem.weight"] == -2.5).all()
    assert after.mask == {}
    metrics = after.meta["metrics"]
    assert metrics["personal_accuracy"] == pytest.approx(0.8)
    sizes = sum(method.sizes.values())
    shares = [1 - (method.sizes[W] - kept) / sizes for kept in (target, target + 10)]
    assert metrics["personal_density"] == pytest.approx((10 * shares[0] + 30 * shares[1]) / 40)
    assert method.configure_round(after).meta["personal_density"] == metrics["personal_density"]


def test_masks_under_the_target_are_refused(engine):
    method = lottery()
    state = method.initial_state(engine, dataset(96, 1))
    fold = method.begin_fold(state)
    with pytest.raises(ResultError, match=f"keeps {method.targets[W] - 1} weights"):
        method.fold(fold, result_of(method, np.arange(method.targets[W] - 1), 1.0, 10, 0.5))
    with pytest.raises(ResultError, match="accuracy"):
        method.fold(fold, result_of(method, np.arange(method.targets[W]), 1.0, 10, float("nan")))
    assert (fold.devices, fold.weight) == (0, 0)


def test_the_fold_is_bit_equal_in_any_order(engine):
    method = lottery()
    state = method.initial_state(engine, dataset(96, 1))
    rng, size, results = np.random.default_rng(0), method.sizes[W], []
    for samples in (7, 1000, 33):
        active = rng.choice(size, size // 3, replace=False)
        results.append(result_of(method, active, rng.standard_normal(), samples, rng.random()))
    seen = set()
    for order in itertools.permutations(results):
        fold = method.begin_fold(state)
        for result in order:
            method.fold(fold, result)
        seen.add(encode(method.finish_round(state, fold), precision="fp32"))
    assert len(seen) == 1


def test_the_deployed_model_is_at_the_target_density_and_the_state_is_untouched(engine):
    method = lottery()
    state = method.initial_state(engine, dataset(96, 1))
    before = encode(state, precision="fp32")
    model = method.deployed(state)
    assert active_counts(model.mask) == method.targets
    for name, active in model.mask.items():
        assert not model.params[name][~active].any()
        assert np.array_equal(model.params[name][active], state.params[name][active])
        assert np.abs(state.params[name][active]).min() >= np.abs(state.params[name][~active]).max()
    assert encode(state, precision="fp32") == before


def test_the_cost_falls_with_the_personal_density(engine):
    method = lottery()
    graph, state = method.problem.graph, method.initial_state(engine, dataset(96, 1))
    dense = method.cost(method.configure_round(state), 50, 5)
    assert dense.flops == graph.flops() * (3 * 45 + 2 * 5)
    state.meta["metrics"] = {"personal_density": 0.25}
    sparse = method.cost(method.configure_round(state), 50, 5)
    assert sparse.flops < dense.flops
    assert sparse.memory < dense.memory


def test_a_run_over_the_wire_shrinks_to_the_target(engine):
    method = lottery(rounds=8, prune_rate=0.4, accuracy_threshold=0.4)
    state = method.initial_state(engine, dataset(96, 1))
    cohort = devices()
    cohort[2].development.y[:] = (cohort[2].development.y + 1) % 3  # it never passes the threshold
    memories = {device.name: Memory() for device in cohort}
    densities, masks = [], {}
    while not method.finished(state):
        task = decode(encode(method.configure_round(state)))
        fold = method.begin_fold(state)
        for device in cohort:
            result = decode(encode(method.run(task, engine, device, Control(memory=memories[device.name]))))
            before = masks.get(device.name, result.mask)
            masks[device.name] = result.mask
            for name, active in result.mask.items():
                assert not (active & ~before[name]).any(), "personal masks only shrink"
                assert active.sum() >= method.targets[name]
                assert not result.params[name][~active].any()
            method.fold(fold, result)
        state = decode(encode(method.finish_round(state, fold), precision="fp32"))
        densities.append(state.meta["metrics"]["personal_density"])
        assert density(method.deployed(state).mask) == pytest.approx(0.1, rel=0.02)
    assert densities == sorted(densities, reverse=True)
    assert density(masks["d2"]) == 1.0
    assert density(masks["d0"]) < 0.2
    assert density(masks["d1"]) < 0.2
    assert 0.4 < state.meta["metrics"]["personal_accuracy"] < 1.0
