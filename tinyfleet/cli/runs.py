"""``tinyfleet run``: give a run to the coordinator, look at runs, stop them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from tinyfleet.cli.output import Json, emit_facts, emit_json, emit_table
from tinyfleet.cli.state import StateOption, opened
from tinyfleet.fedcore.errors import ConfigError

if TYPE_CHECKING:
    from tinyfleet.coordinator.privacy.accountant import Outlook
    from tinyfleet.coordinator.privacy.ledgers import Ledger
    from tinyfleet.coordinator.store.rows import RunRow, StepRow, TaskRow
    from tinyfleet.fedcore.arrays import Params
    from tinyfleet.fedcore.run_spec import RunSpec
    from tinyfleet.submission import Submission

app = typer.Typer(help="Submit, list, show and stop runs.", no_args_is_help=True)

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's id, or its beginning where that is unique.")
]


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(metavar="RUN.toml", help="What to run.")],
    state: StateOption = None,
    as_json: Json = False,
) -> None:
    """Check RUN.toml and put the run at the end of the coordinator's queue."""
    submission = read_submission(file, state)
    spec = with_contract(submission.spec)
    with opened(state, create=True) as store:
        if submission.start:
            from tinyfleet.fedcore.methods.start import keep_start

            keep_start(store.directory, submission.start)
        run = store.runs.submit(spec)
    outlook = private_outlook(spec)
    if submission.fresh and not as_json:
        typer.echo(f"drawn anew, as other classes are asked for: {', '.join(submission.fresh)}")
    if as_json:
        emit_json({"run": run, "spec": msgspec.to_builtins(spec), "privacy": outlook})
        return
    if outlook is not None:
        typer.echo(str(outlook))
    typer.echo(f"submitted {run}; follow it with: tinyfleet run show {run}")


@app.command("list")
def list_runs(state: StateOption = None, as_json: Json = False) -> None:
    """All runs in the order of their submission."""
    with opened(state) as store:
        rows = store.runs.all()
    if as_json:
        emit_json(rows)
        return
    emit_table(
        ("run", "method", "state", "round", "reason"),
        [(r.run, r.method, r.state, f"{r.round}/{r.rounds}", r.reason or r.warning) for r in rows],
        empty="no runs; submit one with: tinyfleet run submit RUN.toml",
    )


@app.command()
def show(run: RunArgument, state: StateOption = None, as_json: Json = False) -> None:
    """One run: where it stands, and each of its steps."""
    with opened(state) as store:
        row = store.runs.get(resolve(run, store.runs.names()))
        steps, tasks = store.steps.of(row.run), store.tasks.of(row.run)
        ledger = store.ledgers.legible(row.run)
    if as_json:
        emit_json({"run": row, "steps": steps, "tasks": tasks, "privacy": ledger})
        return
    emit_facts(
        [
            ("run", row.run),
            ("method", row.method),
            ("state", f"{row.state} {row.reason}".strip()),
            ("round", f"{row.round} of {row.rounds}"),
            *([("result", _result(row))] if row.result else []),
            *([("warning", row.warning)] if row.warning else []),
            *([] if ledger is None else [("privacy", str(ledger))]),
        ]
    )
    columns = (
        "step",
        "stage",
        "round",
        "state",
        "results",
        "loss",
        "test accuracy",
        "density",
        "up",
        "down",
        "lost",
    )
    more: dict[str, Callable[[StepRow], str]] = {
        "validation": lambda step: "" if step.validation_accuracy is None else f"{step.validation_accuracy:.1%}",
        "epsilon": lambda step: _epsilon(ledger, step),
        "left out": _left_out,
        "not measured": lambda step: step.evaluation,
        "in less memory": lambda step: _in_less_memory(step, tasks),
    }
    shown = {name: cell for name, cell in more.items() if any(cell(step) for step in steps)}
    emit_table(
        (*columns, *shown),
        [(*_step_cells(step), *(cell(step) for cell in shown.values())) for step in steps],
        empty="no step yet",
    )


@app.command()
def stop(run: RunArgument, state: StateOption = None) -> None:
    """Ask the coordinator to stop a run; what it has trained so far stays."""
    with opened(state) as store:
        found = resolve(run, store.runs.names())
        store.runs.request_stop(found)
    typer.echo(f"asked to stop {found}")


def read_spec(file: Path) -> RunSpec:
    """A run from TOML, all of it checked. Raises ``ConfigError``."""
    return read_submission(file).spec


def read_submission(file: Path, state: Path | None = None) -> Submission:
    """A run from TOML, its method's settings, its model and its privacy checked too. Raises ``ConfigError``.

    What its model refers to is read as well; ``state`` is where runs are looked for that it starts from. Where its
    privacy names a budget and no noise, the noise is filled in.
    """
    from tinyfleet.coordinator.privacy.accountant import calibrated
    from tinyfleet.fedcore.cohort.robust import check_aggregate
    from tinyfleet.fedcore.methods import registry
    from tinyfleet.fedcore.outcome.choice import with_validation
    from tinyfleet.fedcore.privacy.admissible import check_privacy
    from tinyfleet.fedcore.run_spec import RunSpec
    from tinyfleet.fedcore.settings import read_toml
    from tinyfleet.submission import settle

    spec = read_toml(file, RunSpec)
    submission = settle(spec, file, lambda run: state_params(run, state))
    spec = submission.spec
    method = registry.method_of(spec)
    check_aggregate(spec.fleet, method)
    check_privacy(spec, method)
    return replace(submission, spec=with_validation(calibrated(spec)))


def state_params(run: str, state: Path | None) -> Params:
    """The numbers of a run's latest model. Raises ``ConfigError``."""
    from tinyfleet.fedcore.methods.registry import method_of
    from tinyfleet.fedcore.protocol.codec import decode
    from tinyfleet.fedcore.run_spec import RunSpec
    from tinyfleet.fedcore.settings import convert

    with opened(state) as store:
        row = store.runs.get(resolve(run, store.runs.names()))
        blob = store.state_blob(row.run)
        if blob is None:
            raise ConfigError(f"{row.run} is {row.state} and has no model yet; wait for its first step")
        content = store.blobs.read(blob.name)
    return method_of(convert(row.spec, RunSpec, row.run)).deployed(decode(content)).params


def with_contract(spec: RunSpec) -> RunSpec:
    """The run, with what its numbers and labels mean, as the gateway's own data has it: boards are held to that.

    Raises ``DataError`` where that cannot be read, or does not fit the model or a contract that the run brings.
    """
    from tinyfleet.fedcore.datasets.agreement import disagreements
    from tinyfleet.fedcore.datasets.contract import check_data
    from tinyfleet.fedcore.datasets.partition import described
    from tinyfleet.fedcore.errors import DataError
    from tinyfleet.fedcore.foreign.data_description import as_contract

    if not (spec.data.public_fraction or spec.data.test_fraction):
        return spec  # the gateway has no data
    own = described(spec.data)
    check_data(own, spec.model)
    if spec.contract is None:
        return msgspec.structs.replace(spec, contract=as_contract(own))
    if found := disagreements(own, spec.contract):
        raise DataError("; ".join(map(str, found)))
    return spec


def private_outlook(spec: RunSpec) -> Outlook | None:
    """What the whole run would spend; None where it is not private."""
    from tinyfleet.coordinator.privacy.accountant import outlook

    return outlook(spec)


def resolve(run: str, known: list[str]) -> str:
    """The run that is called ``run`` or begins with it. Raises ``ConfigError`` where that is none or several."""
    matches = [run] if run in known else [name for name in known if name.startswith(run)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ConfigError(f"run {run!r} may be any of {', '.join(matches)}; give more of its id")
    raise ConfigError(f"no run {run!r}; `tinyfleet run list` names those that there are")


def _result(row: RunRow) -> str:
    """Which state it is, and how good."""
    which = {
        "best": f"best on validation data: the state after step {row.result_step}",
        "averaged": f"the mean of the last rounds, up to step {row.result_step}",
    }.get(row.result, f"the last state, after step {row.result_step}")
    figures = {"validation": row.result_validation_accuracy, "test": row.result_test_accuracy}
    said = [f"{value:.1%} on {name} data" for name, value in figures.items() if value is not None]
    return ", ".join((which, *said))


def _left_out(step: StepRow) -> str:
    """Devices that the step did without, and why."""
    return "; ".join(f"{device}: {reason}" for device, reason in step.left_out.items())


def _epsilon(ledger: Ledger | None, step: StepRow) -> str:
    """Spent by the run once the step was over."""
    spent = None if ledger is None else ledger.of_step(step.step)
    return "" if spent is None else f"{spent:.3g}"


def _in_less_memory(step: StepRow, tasks: Sequence[TaskRow]) -> str:
    """Devices whose results suffer to fit their memory, and how."""
    return "; ".join(f"{task.device}: {task.levers}" for task in tasks if task.step == step.step and task.levers)


def _step_cells(step: StepRow) -> tuple[object, ...]:
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return (
        step.step,
        step.stage,
        step.round,
        step.state,
        f"{step.results}/{step.expected}",
        number(step.loss, ".3f"),
        number(step.test_accuracy, ".1%"),
        number(step.density, ".4f"),
        number(step.bytes_up, ",.0f"),
        number(step.bytes_down, ",.0f"),
        "; ".join(f"{loss['device']}: {loss['reason']}" for loss in step.lost),
    )
