"""Comparatives of the documents that are words and not figures: each holds in the committed results."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("sparse_engine", reason="the rows of its benchmarks are read with its types")

from sparse_engine.program.tape import DENSE_FROM
from tests.e2e import test_random_jobs, test_soak
from tinyfleet.bench.caches import CacheRow
from tinyfleet.bench.compaction import CompactionRow
from tinyfleet.bench.inference import InferenceRow
from tinyfleet.bench.methods.config import expand, read_config
from tinyfleet.bench.methods.tables import summaries
from tinyfleet.device_profiles.profile import shipped
from tinyfleet.export.formats import limits
from tinyfleet.fedcore.methods.parts.bn_selection import default_pool_size
from tinyfleet.fedcore.methods.parts.gradual import CUTS
from tinyfleet.fedcore.methods.registry import create, problem_of
from tinyfleet.figures.ablation import DENSE, WHOLE, Ablation
from tinyfleet.figures.comparing import Score, Standing, compared, scores
from tinyfleet.figures.methods import BENCH, OWN, Methods
from tinyfleet.figures.parts import CHANNELS, KEEP, PARTS, differing
from tinyfleet.figures.results import CommittedResults

ROOT = Path(__file__).parents[3]
RESULTS = CommittedResults(ROOT / "docs/benchmarks")
DENSITIES = (0.1, 0.05, 0.02, 0.01)


@pytest.fixture(scope="module")
def cells():
    return RESULTS.cells(BENCH)


def means(metric):
    return {(entry.method, entry.density): entry.mean(metric) for entry in summaries(RESULTS.cells(BENCH))}


def test_tinyfleet_is_ahead_at_all_densities_by_either_score(cells):
    for density in DENSITIES:
        for kind in Score:
            own = scores(cells, OWN, density, kind)
            for rival in {cell.method for cell in cells if cell.density == density} - {OWN}:
                assert compared(own, scores(cells, rival, density, kind)).verdict is Standing.AHEAD, (
                    density,
                    rival,
                )


def test_at_a_hundredth_the_final_lead_is_about_half():
    found = Methods(RESULTS)
    assert 0.4 < float(found.lead("final", "0.01")) / float(found.lead("last", "0.01")) < 0.6
    assert all(
        float(found.lead("final", f"{density:g}")) > 0.9 * float(found.lead("last", f"{density:g}"))
        for density in DENSITIES[:3]
    )


def test_memory_is_least_as_measured_and_not_by_arithmetic():
    measured, analytic = means("memory_measured_mb"), means("memory_analytic_mb")
    for density in DENSITIES:
        others = [value for (method, at), value in measured.items() if at == density and method != OWN]
        assert measured[OWN, density] < min(others)
        assert analytic["fedmef", density] < analytic[OWN, density]


def test_bytes_are_level_with_other_batch_norm_methods():
    up = means("bytes_up_round")
    for density in DENSITIES:
        for rival in ("fedmef, batch norm", "fedtiny, ERK", "static"):
            assert abs(up[OWN, density] / up[rival, density] - 1) < 0.045
        assert up["fedmef", density] < up[OWN, density]


def test_fedtiny_and_fedmef_on_batch_norm_are_nowhere_behind_the_static_mask(cells):
    for method in ("fedtiny, ERK", "fedmef, batch norm"):
        for density in DENSITIES:
            assert compared(scores(cells, method, density), scores(cells, "static", density)).verdict != "behind"


def test_fedtinys_dearest_step_at_low_densities_is_its_selection():
    flops = means("flops_round_max")
    unselected = flops["static", 0.01] / flops["static", 0.02]
    assert unselected < 1 < flops["fedtiny, ERK", 0.01] / flops["fedtiny, ERK", 0.02]
    assert flops["fedtiny, ERK", 0.02] > 1.5 * flops["static", 0.02]
    assert flops["fedtiny, ERK", 0.05] < 1.1 * flops["static", 0.05]


def test_prunefl_ends_below_the_density_it_was_given(cells):
    assert all(cell.density_final < cell.density for cell in cells if cell.method == "prunefl")


def test_prunefl_reconfigures_within_the_rounds_that_are_scored():
    config = read_config(BENCH)
    spec = next(cell.spec for cell in expand(config) if cell.method == "prunefl")
    rounds = [r + 1 for r in range(1, spec.training.rounds) if r % spec.method["interval"] == 0]
    assert rounds == [7, 13, 19]
    assert spec.training.rounds - config.last + 1 == 15


def test_fedtinys_pools():
    assert [default_pool_size(density) for density in DENSITIES] == [1, 2, 5, 10]


def test_the_table_of_all_methods_is_that_of_the_configuration(cells):
    expected = {(cell.method, cell.density, cell.spec.seed) for cell in expand(read_config(BENCH))}
    assert {(cell.method, cell.density, cell.seed) for cell in cells} == expected


def test_what_the_configuration_gives_the_arms_is_what_the_rows_paid_for(cells):
    """Analytic memory follows from caches, norm and batch: growth buffers and rounding apart."""
    rows = {(cell.method, cell.density, cell.seed): cell for cell in cells}
    for cell in expand(read_config(BENCH)):
        if cell.method in ("prunefl", "lotteryfl"):
            continue  # masks that no count tells
        method = create(cell.spec.method, problem_of(cell.spec))
        graph = method.problem.graph
        row = rows[cell.method, cell.density, cell.spec.seed]
        whole = method.training_memory({})
        dense = sum(spec.size for name, spec in graph.params.items() if name in graph.maskable)
        # A masked weight saves its value, gradient and momentum, and costs a bit.
        expected = whole - dense * (12 * (1 - row.density_final) - 1 / 8) if row.density < 1 else whole
        assert row.memory_analytic_mb == pytest.approx(expected / 1e6, rel=0.01), cell.method


def test_the_ablation_is_ties_below_dense_training():
    for rounds in ("10", "20"):
        found = Ablation(RESULTS)._accuracies(rounds)
        for variant, accuracies in found.items():
            if variant not in (WHOLE, DENSE):
                assert compared(found[WHOLE], accuracies).verdict is Standing.TIE, variant
        assert max(found[WHOLE]) < min(found[DENSE])


def test_parts_are_one_seed_and_the_cut_differs_in_what_stands_there():
    assert {cell.seed for cell in RESULTS.cells(PARTS)} == {0}
    assert {cell.seed for cell in RESULTS.cells(CHANNELS)} == {0}
    assert [name for name, *_ in differing()] == [
        "mask",
        "epochs on public data, dense + sparse",
        "layer densities",
        "adjusted layers",
        "share exchanged",
        "extrusion",
        "caches",
    ]
    assert CUTS == 30


def test_parts_lie_closer_than_seeds():
    found = Methods(RESULTS)
    parts = [cell.accuracy_last10 for cell in RESULTS.cells(PARTS) if not cell.method.startswith("one cut")]
    assert 100 * (max(parts) - min(parts)) < float(found.seeds_apart("static", "0.01"))


def test_only_the_strongest_channel_score_loses_more_than_seeds_differ():
    accuracy = {cell.method: 100 * cell.accuracy_last10 for cell in RESULTS.cells(CHANNELS)}
    spread = float(Methods(RESULTS).seeds_apart("static", "0.01"))
    lost = [
        accuracy["tinyfleet, exponent 0"] - accuracy[f"tinyfleet, exponent {power}"] for power in ("0.5", "1", "2")
    ]
    assert [value > spread for value in lost] == [False, False, True]


def test_extrusion_at_its_default_does_nothing_and_a_large_lambda_acts():
    found = {(row["share"], row["lambda"]): row["norm_ratio"] for row in RESULTS.read("extrusion")["rows"]}
    for share in (0.05, 0.2):
        assert found[share, 0.001] == pytest.approx(found[share, 0.0], rel=0.02)
        assert found[share, 0.1] < 0.6 * found[share, 0.0]
    document = RESULTS.read("extrusion")
    assert max(document["beta_0"]) < document["eta_r"]


def test_pruned_caches_tie_but_at_the_lowest_share():
    cells = RESULTS.cells(KEEP)
    behind = []
    for dataset in {cell.dataset for cell in cells}:
        here = [cell for cell in cells if cell.dataset == dataset]
        exact = scores(here, "keep 1", 0.05, Score.FINAL)
        for method in {cell.method for cell in here} - {"keep 1"}:
            verdict = compared(scores(here, method, 0.05, Score.FINAL), exact).verdict
            assert verdict is not Standing.AHEAD
            behind += [(dataset, method)] if verdict is Standing.BEHIND else []
    assert behind == [("Fashion-MNIST", "keep 0.2, batch norms too")]


def test_the_deployed_files():
    found = {(row.model, row.density, row.format): row for row in RESULTS.rows("inference", InferenceRow)}
    slower_int8 = []
    for (model, density, name), row in found.items():
        own = found[model, density, "sparse-fp32"]
        if name != "sparse-fp32":
            assert own.memory_mb < row.memory_mb
        if name == "tflite-int8" and row.latency_ms > own.latency_ms:
            slower_int8.append((model, density))
    assert slower_int8 == [("resnet18", 0.01)]


def test_pruned_batch_norm_lies_between_fedmefs_ratio_and_its_own():
    peaks = {(r.norm, r.keep, r.cache, r.pruned_norms): r.peak_mb for r in RESULTS.rows("caches", CacheRow)}
    own = peaks["batch", 0.3, "fp16", True]
    assert peaks["nsconv", 0.3, "fp16", False] < own < peaks["nsconv", 0.5, "fp32", False]


def test_alike_masks_leave_resnet18_whole():
    rows = [row for row in RESULTS.rows("compaction", CompactionRow) if row.mask == "alike in all layers"]
    for row in rows:
        assert (row.multiply_adds_compact > 0.99 * row.multiply_adds) == (row.model == "resnet18")


def test_bounds_that_pages_quote():
    benchmarks, export, engine = (
        (ROOT / f"docs/{page}.md").read_text(encoding="utf-8") for page in ("benchmarks", "export", "engine")
    )
    assert f"{100 * (test_random_jobs.OVERSHOOT - 1):.0f} %)" in benchmarks
    assert f"stays within {test_soak.FLAT_BYTES / 1e6:.0f} MB, its warm worker within" in benchmarks
    assert f"{test_soak.FLAT_WORKER_BYTES / 1e6:.0f} MB: those are the test's bounds" in benchmarks
    assert f"passes {limits.FP32.most_error:.0e}".replace("e-0", "e-") in export
    shares = [f"{100 * each.least_agreement:g} %" for each in (limits.FP32, limits.FP16, limits.INT8)]
    assert f"{shares[0]}, {shares[1]} or {shares[2]}" in export
    assert f"Where nothing was measured it is {DENSE_FROM:g}." in engine


def test_the_boards_table_says_what_the_profiles_say():
    text = (ROOT / "docs/boards.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines()]
    listed = {row[0]: row for row in rows if row[0] in shipped()}
    for name, profile in shipped().items():
        if name == "generic":
            continue
        processor, memory = listed[name][2:4]
        size = profile.memory_bytes
        assert processor.startswith(profile.cpu), name
        assert profile.clock_mhz is None or f"{profile.clock_mhz / 1000:g}" in processor.replace(".0 ", " "), name
        assert (f"{size // 10**6} MB" if size < 10**9 else f"{size // 10**9} GB") in memory, name


def test_the_readme_counts_the_rivals():
    from tinyfleet.fedcore.methods.registry import names

    others = set(names()) - {"fedavg", "static", "fedtiny", "fedmef", "tinyfleet"}
    assert len(others) == 7, "README.md says seven rivals"
