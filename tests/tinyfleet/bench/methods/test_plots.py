from __future__ import annotations

import matplotlib.image
import pytest
from matplotlib.figure import Figure

from tests.tinyfleet.bench.methods.rows import ROWS
from tinyfleet.bench.methods.plots import against, convergence, method_styles, write_plots
from tinyfleet.bench.methods.tables import summaries

STYLES = method_styles(ROWS)


def test_every_method_keeps_one_colour():
    assert list(STYLES) == ["fedavg", "fedtiny", "static"]
    assert len({colour for colour, _ in STYLES.values()}) == 3
    axes = Figure().subplots()
    convergence(axes, ROWS, STYLES, 0.1)
    lines = {line.get_label(): line for line in axes.lines}
    assert {name: line.get_color() for name, line in lines.items()} == {
        "fedavg, dense": STYLES["fedavg"][0],
        "fedtiny": STYLES["fedtiny"][0],
    }
    assert list(lines["fedtiny"].get_ydata()) == pytest.approx([72.0, 82.0])


def test_a_method_is_a_line_through_its_densities():
    axes = Figure().subplots()
    against(axes, summaries(ROWS), STYLES, "density_final", 100.0, "density, %")
    fedavg, fedtiny, static = (container.lines[0] for container in axes.containers)
    assert (list(fedavg.get_xdata()), list(fedavg.get_ydata())) == ([100.0], pytest.approx([92.0]))
    assert (list(fedtiny.get_xdata()), list(fedtiny.get_ydata())) == ([1.0, 10.0], pytest.approx([70.0, 82.0]))
    assert list(static.get_xdata()) == [1.0]


@pytest.mark.slow
def test_all_pictures_are_files_of_both_kinds(tmp_path):
    names = {path.name for path in write_plots(ROWS, tmp_path)}
    stems = {f"accuracy-{kind}-digits-iid" for kind in ("density", "bytes", "flops", "memory")}
    stems |= {"convergence-0.1-digits-iid", "convergence-0.01-digits-iid"}
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("svg", "png")}
    assert matplotlib.image.imread(tmp_path / "accuracy-density-digits-iid.png").std() > 0.01
    assert "</svg>" in (tmp_path / "convergence-0.01-digits-iid.svg").read_text()


def test_without_finished_runs_there_is_no_picture(tmp_path):
    assert write_plots([row for row in ROWS if row.status == "failed"], tmp_path) == []
