"""FedTiny (Huang et al., ICDCS 2023, arXiv 2212.01977): adaptive batch-norm selection, then progressive pruning."""

from __future__ import annotations

from typing import Any, Literal

from tinyfleet.fedcore.accounting import Cost, parameter_bytes, working_bytes
from tinyfleet.fedcore.datasets.dataset import Dataset, DeviceData
from tinyfleet.fedcore.methods.method import Control, Fold, normalization_of
from tinyfleet.fedcore.methods.parts import bn_selection as selection
from tinyfleet.fedcore.methods.parts.adjusting import Adjusting, AdjustmentSettings
from tinyfleet.fedcore.methods.parts.checks import checked_samples, integer
from tinyfleet.fedcore.methods.summing.stages import LossStage, StatisticsStage
from tinyfleet.fedcore.methods.summing.summands import SumStage
from tinyfleet.fedcore.payload import Json, Payload
from tinyfleet.fedcore.protocol.codec import quantise
from tinyfleet.fedcore.run_spec import Count, Fraction, Positive
from tinyfleet.fedcore.sparsity.mask import apply_mask, magnitude_mask
from tinyfleet.fedcore.training.engine import Engine

STATISTICS, SELECTION, TRAIN = "bn_statistics", "bn_selection", "train"


class FedTinySettings(AdjustmentSettings, frozen=True):
    """FedTiny's hyper-parameters, with the paper's values where it gives them."""

    name: Literal["fedtiny"] = "fedtiny"
    pretrained: bool = True  # off: candidates are magnitude masks of random weights
    # Adaptive batch-norm selection.
    selection: bool = True  # off: the uniform magnitude mask, unselected
    candidates: Count = 0  # C; 0: min(20, ceil(0.1 / density))
    spread: Fraction = 0.5  # layer densities d_l (1 + u), u ~ U(-spread, spread)
    allocation: Literal["uniform", "erk"] = "uniform"  # d_l: d itself (the paper), or ERK's
    statistics_passes: Positive = 10
    between_device_variance: bool = False  # add the variance of the devices' means (law of total variance)


class FedTiny(Adjusting):
    """Stages: ``bn_statistics`` -> ``bn_selection`` -> ``train`` with an adjustment every dR rounds."""

    name = "fedtiny"
    settings_type = FedTinySettings

    # -- coordinator half ---------------------------------------------------------------

    def initial_state(self, engine: Engine, public: Dataset) -> Payload:
        """Pre-train densely on public data and draw the candidate pool (steps 1 and 2)."""
        s, graph = self.settings, self.problem.graph
        state = super().initial_state(engine, public)
        # Devices derive the candidates from the parent as it travels: so does the coordinator.
        parent = quantise(state.params, self.problem.wire_precision)
        size = (s.candidates or selection.default_pool_size(s.density)) if s.selection else 1
        pool = selection.draw_candidates(graph, s.density, size, self.problem.seed, s.spread, s.allocation)
        mask = magnitude_mask(parent, selection.union_counts(pool))
        apply_mask(parent, mask)
        state.meta["stage"] = STATISTICS if size > 1 else TRAIN
        if size > 1:
            state.meta["candidates"] = [dict(counts) for counts in pool]
        return Payload(state.meta, parent, mask)

    def more_than_updates(self) -> str:
        s = self.settings
        if s.selection and (s.candidates or selection.default_pool_size(s.density)) > 1:
            return "they hold statistics and losses of each candidate mask; set method.selection = false"
        return super().more_than_updates()

    def configure_round(self, state: Payload) -> Payload:
        task = super().configure_round(state)
        if state.meta["stage"] != TRAIN:
            task.meta["candidates"] = state.meta["candidates"]
        return task

    def cost(self, task: Payload, samples: int, development: int) -> Cost:
        stage = task.meta["stage"]
        if stage == TRAIN:
            return super().cost(task, samples, development)
        graph, pool = self.problem.graph, self._pool(task)
        passes = self.settings.statistics_passes if stage == STATISTICS else 1
        forward = sum(graph.flops(magnitude_mask(task.params, counts)) for counts in pool)
        memory = parameter_bytes(graph, task.mask) + working_bytes(graph, self.problem.training.batch)
        return Cost(float(forward * passes * development), memory)

    def begin_fold(self, state: Payload) -> Fold:
        graph, stage = self.problem.graph, state.meta["stage"]
        if stage == STATISTICS:
            return selection.StatisticsFold(graph, len(self._pool(state)))
        if stage == SELECTION:
            return selection.LossFold(len(self._pool(state)))
        return super().begin_fold(state)

    def sum_stage(self, task: Payload) -> SumStage:
        stage = task.meta["stage"]
        if stage == STATISTICS:
            return StatisticsStage(self.problem.graph, len(self._pool(task)), self.precision)
        if stage == SELECTION:
            return LossStage(len(self._pool(task)))
        return super().sum_stage(task)

    def fold(self, fold: Any, result: Payload) -> None:
        weight = checked_samples(result)
        if isinstance(fold, selection.StatisticsFold):
            fold.add(result.params, weight)
        elif isinstance(fold, selection.LossFold):
            fold.add(result.meta.get("losses"), weight)
        else:
            super().fold(fold, result)

    def finish_round(self, state: Payload, fold: Any) -> Payload:
        if isinstance(fold, selection.StatisticsFold):
            return self._finish_statistics(state, fold)
        if isinstance(fold, selection.LossFold):
            return self._finish_selection(state, fold)
        return super().finish_round(state, fold)

    def _finish_statistics(self, state: Payload, fold: selection.StatisticsFold) -> Payload:
        """Step 5: the devices' statistics become one set a candidate."""
        meta: dict[str, Json] = dict(state.meta)
        meta |= {"step": integer(state, "step") + 1, "stage": SELECTION}
        meta["metrics"] = {"samples": fold.weight}
        return Payload(meta, state.params | fold.mean(self.settings.between_device_variance), state.mask)

    def _finish_selection(self, state: Payload, fold: selection.LossFold) -> Payload:
        """Step 6: the lowest loss wins; kept weights keep their pre-trained values."""
        graph, pool, losses = self.problem.graph, self._pool(state), fold.mean()
        parent = {name: state.params[name] for name in graph.params}
        winner, mask = selection.winner_mask(parent, pool, losses)
        params = selection.candidate_params(parent, state.params, winner, graph)
        params = {name: params[name].copy() for name in graph.params}
        apply_mask(params, mask)
        meta: dict[str, Json] = {key: value for key, value in state.meta.items() if key != "candidates"}
        meta |= {"step": integer(state, "step") + 1, "stage": TRAIN, "winner": winner}
        meta["metrics"] = {"loss": losses[winner], "candidate_losses": list(losses), "samples": fold.weight}
        return Payload(meta, params, mask)

    def _pool(self, payload: Payload) -> list[selection.Counts]:
        return selection.candidates_of(payload.meta.get("candidates"), self.problem.graph)

    # -- device half --------------------------------------------------------------------

    def run(self, task: Payload, engine: Engine, data: DeviceData, control: Control) -> Payload:
        match task.meta["stage"]:
            case "bn_statistics":
                return self._run_statistics(task, engine, data, control)
            case "bn_selection":
                return self._run_selection(task, engine, data, control)
        return super().run(task, engine, data, control)

    def _run_statistics(self, task: Payload, engine: Engine, data: DeviceData, control: Control) -> Payload:
        """Step 4: every candidate's statistics on the development set."""
        statistics = selection.measure_statistics(
            engine,
            self.problem.graph,
            task.params,
            self._pool(task),
            data.development,
            normalization_of(task),
            self.settings.statistics_passes,
            self.problem.training.batch,
            control.levers.micro_batch,
        )
        return Payload({"step": task.meta["step"], "samples": len(data.development)}, statistics)

    def _run_selection(self, task: Payload, engine: Engine, data: DeviceData, control: Control) -> Payload:
        """Step 6: every candidate's loss with the aggregated statistics: C scalars go up."""
        graph = self.problem.graph
        losses = selection.measure_losses(
            engine,
            graph,
            {name: task.params[name] for name in graph.params},
            task.params,
            self._pool(task),
            data.development,
            normalization_of(task),
            control.levers.micro_batch or self.problem.training.batch,
        )
        return Payload({"step": task.meta["step"], "samples": len(data.development), "losses": list(losses)})
