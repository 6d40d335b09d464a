from __future__ import annotations

import dataclasses

import msgspec
import pytest

from tinyfleet.bench.methods.config import BenchConfig, expand, read_config, shipped
from tinyfleet.demo import spec as demo_spec
from tinyfleet.fedcore.errors import ConfigError

TEXT = """
name = "t"
densities = [0.01, 0.1]
seeds = [3, 0]
[base.training]
rounds = 20
[base.data]
source = "digits"
partition = { kind = "dirichlet", devices = 4 }
[base.model]
input_shape = [1, 8, 8]
arguments = { width = 8 }
[[methods]]
method = { name = "fedavg" }
[[methods]]
label = "FedTiny, entire"
method = { name = "fedtiny", granularity = "entire" }
training = { momentum = 0.0 }
model = { arguments = { norm = "nsconv" } }
densities = [0.5]
[[methods]]
method = { name = "static" }
"""


def config(text: str = TEXT, **changes: object) -> BenchConfig:
    return msgspec.structs.replace(msgspec.toml.decode(text, type=BenchConfig), **changes)


def test_cells_run_seed_by_seed_with_falling_density():
    cells = expand(config())
    assert [(c.spec.seed, c.density, c.method) for c in cells] == [
        (seed, density, method)
        for seed in (3, 0)
        for density, method in ((1.0, "fedavg"), (0.5, "FedTiny, entire"), (0.1, "static"), (0.01, "static"))
    ]
    assert {c.spec.data.partition.seed for c in cells if c.spec.seed == 3} == {3}


def test_a_method_s_own_settings_lie_over_the_base_s():
    dense, tiny = expand(config(seeds=(0,)))[:2]
    assert tiny.spec.method == {"name": "fedtiny", "granularity": "entire", "density": 0.5}
    assert (tiny.spec.training.momentum, tiny.spec.training.rounds) == (0.0, 20)
    assert tiny.spec.model.arguments == {"width": 8, "norm": "nsconv"}
    assert dense.spec.method == {"name": "fedavg"}
    assert (dense.spec.training.momentum, dense.spec.model.arguments) == (0.9, {"width": 8})


def test_data_sets_and_partitions_multiply():
    cells = expand(
        config(
            seeds=(0,),
            datasets=(
                {"label": "small", "limit": 400},
                {"source": "mnist5k", "model": {"input_shape": [1, 28, 28]}},
            ),
            partitions=({"kind": "iid"}, {"alpha": 0.1, "label": "uneven"}),
        )
    )
    assert {(c.dataset, c.partition) for c in cells} == {
        (data, part) for data in ("small", "mnist5k") for part in ("iid, 4 devices", "uneven")
    }
    assert len({c.key for c in cells}) == len(cells) == 16
    mnist = next(c for c in cells if c.dataset == "mnist5k" and c.partition == "uneven").spec
    assert mnist.model.input_shape == (1, 28, 28)
    assert (mnist.data.partition.kind, mnist.data.partition.alpha, mnist.data.partition.devices) == (
        "dirichlet",
        0.1,
        4,
    )


def test_another_source_is_another_run():
    here, there = expand(config())[0], expand(config(), "mnist5k")[0]
    assert there.spec.data.source == there.dataset == "mnist5k"
    assert here.digest != there.digest
    assert here.digest == expand(config())[0].digest


def test_what_only_a_live_fleet_reads_makes_no_other_run():
    here = expand(config())[0]
    live = here.spec.fleet.__class__(selection="capability", round_target_s=9.0, least_share=0.5, patience=3)
    spec = msgspec.structs.replace(here.spec, fleet=live)
    assert dataclasses.replace(here, spec=spec).digest == here.digest
    spec = msgspec.structs.replace(here.spec, fleet=msgspec.structs.replace(live, cohort=2))
    assert dataclasses.replace(here, spec=spec).digest != here.digest


def test_the_last_rounds_are_all_evaluated():
    cell = expand(config(evaluate_every=4, last=3))[0]
    assert [r for r in range(1, 21) if cell.evaluated(r)] == [4, 8, 12, 16, 18, 19, 20]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"fedavg"', '"fedavgg"', "did you mean 'fedavg'"),
        ("granularity =", "granularty =", "granularity"),
        ('method = { name = "static" }', 'method = { name = "static", density = 0.1 }', "take method.density out"),
        ('method = { name = "static" }', 'label = "fedavg"\nmethod = { name = "fedavg" }', "different labels"),
        ("momentum = 0.0", "momentun = 0.0", "momentum"),
    ],
)
def test_mistakes_are_told_before_anything_runs(old, new, message):
    with pytest.raises(ConfigError, match=message):
        expand(config(TEXT.replace(old, new)))


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(ConfigError, match="smoke"):
        read_config("smoky")


def test_shipped_files_are_well_formed():
    assert {"smoke"} <= shipped().keys()
    for name in shipped():
        assert read_config(name).name == name
    assert len({cell.key for cell in expand(read_config("smoke"))}) == 7


def test_the_ablation_is_the_demos_run_with_parts_switched_off():
    cells = {cell.method: cell for cell in expand(read_config("ablation")) if cell.spec.seed == demo_spec.SEED}
    demo = demo_spec.demo_spec("fedtiny")
    for cell in cells.values():
        spec = cell.spec
        assert (spec.model, spec.training, spec.data, spec.wire) == (
            demo.model,
            demo.training,
            demo.data,
            demo.wire,
        )
    assert cells["FedTiny"].spec.method == demo.method
    assert cells["without both"].spec.method == demo.method | {"selection": False, "progressive": False}


def test_a_folder_of_the_same_name_is_not_in_the_way(tmp_path, monkeypatch):
    (tmp_path / "smoke").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_config("smoke").name == "smoke"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(str(tmp_path / "smoke"))
