"""What a run is: the file RUN.toml, and the record that the coordinator stores and sends."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from tinyfleet.fedcore.foreign.data_description import MOST_CLASSES, ClassName, DataDescription

Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
# Of whatever is counted: the product of two is still an integer that a database takes.
MOST_COUNTED = 2**31 - 1
Positive = Annotated[int, Meta(ge=1, le=MOST_COUNTED)]
Count = Annotated[int, Meta(ge=0, le=MOST_COUNTED)]
Seed = Annotated[int, Meta(ge=0)]


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all settings: immutable, and unknown keys are errors."""


class ModelSettings(Settings, frozen=True):
    """Which model to train."""

    name: str = "small_cnn"  # small_cnn | resnet8 | resnet20 | resnet18 | vgg11 | mobilenet_v2 | sensor_cnn
    input_shape: tuple[int, ...] = (1, 28, 28)  # channels, height, width; or channels, length
    classes: Positive = 10  # outputs
    arguments: dict[str, int | float | str] = {}  # the model's own: width, say
    # Instead of a name: the layers one by one, each { kind = "conv", out = 16, ... }. See docs/models.md.
    layers: list[dict[str, Any]] = []
    file: str = ""  # instead of a name: an ONNX file, whose numbers the run starts from; seen from RUN.toml
    # Of layers or a file: groups that may be pruned, from the output to the input; empty: chosen by a rule.
    blocks: tuple[tuple[str, ...], ...] = ()
    # The numbers that the run starts from: "run:ID", "FILE.onnx" or "STATE.blob"; empty: drawn by the seed.
    init: str = ""
    graph: dict[str, Any] = {}  # what a model without a name is to the boards; written when a run is submitted


class ServerSettings(Settings, frozen=True):
    """What the coordinator makes of a round's mean update; its state costs devices nothing."""

    # none: the mean is the next model. fedavgm: Hsu et al. 2019; the others: Reddi et al. 2021.
    optimiser: Literal["none", "fedavgm", "fedadam", "fedyogi", "fedadagrad"] = "none"
    # None: 1 with fedavgm, else 0.01.
    learning_rate: Annotated[float, Meta(gt=0.0)] | None = None
    momentum: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.9  # of the mean update
    second: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.99  # fedadam, fedyogi: of its square
    adaptivity: Annotated[float, Meta(gt=0.0)] = 1e-3  # tau: beside the root of that square in the denominator

    @property
    def rate(self) -> float:
        """The server's learning rate."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 1.0 if self.optimiser == "fedavgm" else 0.01


class AugmentSettings(Settings, frozen=True):
    """Random changes of the devices' batches once they are normalised (zero: the mean); 0 each: none."""

    crop: Count = 0  # images: so many pixels of zeros around, and a window of the old size out of that
    flip: Fraction = 0.0  # images: share that is mirrored left to right
    cutout: Count = 0  # images: side of a square of zeros
    colour: Annotated[float, Meta(ge=0.0)] = 0.0  # images: deviation of contrast and brightness, a channel
    jitter: Annotated[float, Meta(ge=0.0)] = 0.0  # deviation of noise on every value
    scale: Annotated[float, Meta(ge=0.0)] = 0.0  # deviation of a factor, a channel
    shift: Count = 0  # steps of the last axis, earlier or later, at most
    time_mask: Count = 0  # neighbours along the last axis that become zero, at most
    frequency_mask: Count = 0  # the same along the axis before: channels of a series, frequencies of a spectrogram


class TrainingSettings(Settings, frozen=True):
    """Local training on every device, and its schedule over the rounds."""

    rounds: Positive = 20  # training rounds; selection steps come before them
    local_epochs: Positive = 1  # E: passes over its own data that a device makes a round
    batch: Positive = 32  # samples an optimiser step
    learning_rate: Annotated[float, Meta(gt=0.0)] = 0.05  # eta_0
    # Geometric or cosine decay to this; None: constant, and to zero with the cosine.
    final_learning_rate: Annotated[float, Meta(gt=0.0)] | None = None
    schedule: Literal["geometric", "cosine", "step"] = "geometric"  # of the rounds' learning rates
    step_rounds: Positive = 10  # schedule = "step": after so many rounds each time ...
    step_factor: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.1  # ... the rate is multiplied by this
    warmup_rounds: Count = 0  # the rate rises linearly over so many first rounds, whatever the schedule
    momentum: Fraction = 0.9  # of SGD
    weight_decay: Annotated[float, Meta(ge=0.0)] = 5e-4  # of active weights
    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"  # on devices; momentum is Adam's beta_1
    adam_second: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.999  # its beta_2
    adam_epsilon: Annotated[float, Meta(gt=0.0)] = 1e-8  # beside the root in its denominator
    clip_gradient: Annotated[float, Meta(ge=0.0)] = 0.0  # 2-norm that a step's gradient is cut to; 0: it is not
    # FedProx's mu: devices' weights are drawn to those of the round's task.
    proximal: Annotated[float, Meta(ge=0.0)] = 0.0
    # Share of a layer's input cached for its weight gradient, the largest |a|; below 1 it is approximate.
    activation_keep: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    activation_precision: Literal["fp32", "fp16"] = "fp32"  # of that share
    # With activation_keep < 1, prune batch norm's cache as well: its input gradient is approximate then.
    activation_norms: bool = False
    # The native engine's kernels: those that each board measured as its fastest, or the engine's own choice
    # everywhere. Others round differently: a live run on boards that have measured equals its simulation to the bit
    # only with "shipped".
    kernels: Literal["measured", "shipped"] = "measured"
    pretrain_epochs: Count = 5  # at the coordinator, on public data, for methods that pre-train
    pretrain_learning_rate: Annotated[float, Meta(gt=0.0)] = 0.05  # falls linearly to zero
    server: ServerSettings = ServerSettings()
    augment: AugmentSettings = AugmentSettings()
    average_rounds: Positive = 5  # whose weights result = "averaged" is the mean of: the last ones

    def learning_rate_at(self, round_index: int) -> float:
        """eta_r of round r of R, counted from 0; in round r < W of a warm-up (r + 1) / (W + 1) of it.

        geometric: eta_0 (eta_end / eta_0)^(r / R). cosine: eta_end + (eta_0 - eta_end) (1 + cos(pi r / R)) / 2
        (Loshchilov and Hutter, ICLR 2017, arXiv 1608.03983). step: eta_0 factor^floor(r / step_rounds). Warm-up:
        Goyal et al. 2017, arXiv 1706.02677.
        """
        rate = self._scheduled(round_index)
        if round_index >= self.warmup_rounds:
            return rate
        return rate * (round_index + 1) / (self.warmup_rounds + 1)

    def _scheduled(self, round_index: int) -> float:
        first, last = self.learning_rate, self.final_learning_rate
        match self.schedule:
            case "cosine":
                end = last or 0.0
                return end + (first - end) * (1.0 + math.cos(math.pi * round_index / self.rounds)) / 2.0
            case "step":
                return first * self.step_factor ** (round_index // self.step_rounds)
            case _:
                if last is None:
                    return first
                return float(first * (last / first) ** (round_index / self.rounds))


class PartitionSettings(Settings, frozen=True):
    """How one pool of training data is split over simulated or demo devices; ``none`` on real boards."""

    kind: Literal["none", "iid", "dirichlet"] = "none"  # none: every device has its own data
    alpha: Annotated[float, Meta(gt=0.0)] = 0.5  # of the Dirichlet distribution: the smaller, the more uneven
    devices: Positive = 1  # how many parts
    seed: Seed = 0  # of the split


class DataSettings(Settings, frozen=True):
    """Where data comes from. The parts (public, validation, test, devices) never overlap."""

    source: str = "mnist5k"  # digits | image-folder:PATH | arrays:FILE.npz | tables:PATH | ...: all in docs/data.md
    public_fraction: Fraction = 0.1  # of the training data, for pre-training at the coordinator
    # Of public data, held out to choose the result by; 0: none, a quarter with result = "best".
    validation_fraction: Annotated[float, Meta(ge=0.0, le=0.9)] = 0.0
    test_fraction: Fraction = 0.2  # held out where the source has no test split of its own
    # Their names in the order of the labels; empty: as the source has them. A source that has none takes these.
    classes: Annotated[tuple[ClassName, ...], Meta(max_length=MOST_CLASSES)] = ()
    limit: Count = 0  # use at most so many training samples; 0: all
    partition: PartitionSettings = PartitionSettings()


class FleetSettings(Settings, frozen=True):
    """Who takes part in a round, and how long it waits."""

    cohort: Count = 0  # devices a round; 0: all that are accepted and online
    min_results: Positive = 1  # fewer than this at the deadline: the round is tried again
    min_devices: Positive = 1  # a run starts when so many accepted devices are online
    deadline_s: Annotated[float, Meta(gt=0.0)] = 600.0  # of one step
    grace_s: Annotated[float, Meta(ge=0.0)] = 30.0  # how long a round waits for a device that went offline
    staleness: Count = 0  # a late result counts if its base model is at most so many steps old
    max_retries: Count = 8  # of one task on one device; each over-budget one halves the micro-batch
    # uniformly, or by what each device can do in time; the settings below are for the latter
    selection: Literal["random", "capability"] = "random"
    # What a device's part of a step may take. 0: what half of the devices need for the whole task.
    round_target_s: Annotated[float, Meta(ge=0.0)] = 0.0
    # The least part of a task that a slow device is given; where even that is too long, it is left out.
    least_share: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.125
    patience: Positive = 8  # a device that waited for so many steps comes before all that waited less
    # An update beyond so many times its step's median norm is refused (of under three: the model's); 0: none is.
    norm_limit: Annotated[float, Meta(ge=0.0)] = 100.0
    # One device of five or more does at most what so many median ones do, nothing against all others; 0: no limit.
    influence_limit: Annotated[float, Meta(ge=0.0)] = 1.5
    # What admitted results come to; all but the first two hold the whole cohort in memory. See docs/admission.md.
    aggregate: Literal["mean", "clipped", "median", "trimmed", "krum", "multi-krum", "geometric-median"] = "mean"
    # Share of a step's results that may be hostile: what trimmed cuts at either end, and krum does without.
    hostile_share: Annotated[float, Meta(ge=0.0, lt=0.5)] = 0.3
    max_refusals: Count = 3  # refused results of a run after which a device is left out of it; 0: it never is


class PrivacySettings(Settings, frozen=True):
    """Differential privacy of a device's data: docs/privacy.md says against whom, and what it does not cover."""

    # central: the coordinator sees each update, and adds noise to their sum; local: each device adds its own
    mode: Literal["none", "central", "local"] = "none"
    # Euclidean norm that an update of a device may have: of weights under the mask, biases, norms and statistics
    clip: Annotated[float, Meta(gt=0.0, le=1e6)] = 1.0
    # Deviation of the noise, in clips: of the sum (central), of each update (local); 0: what epsilon asks for
    noise: Annotated[float, Meta(ge=0.0, le=1e4)] = 0.0
    # Budget of the run: it stops before a step that would pass it; 0: none, and noise says what is spent
    epsilon: Annotated[float, Meta(ge=0.0)] = 0.0
    delta: Annotated[float, Meta(gt=0.0, lt=1.0)] = 1e-5  # far below one part in the number of devices


class WireSettings(Settings, frozen=True):
    """How payloads travel."""

    precision: Literal["fp32", "fp16", "int8"] = "fp16"  # of active values; results and tasks alike
    compress: bool = True  # zstd, where it shrinks


class SecureAggregationSettings(Settings, frozen=True):
    """Whether the coordinator sees single results, or their sum alone. See docs/secure-aggregation.md."""

    enabled: bool = False  # pairwise masks: the coordinator sees the sum of a step's results, and none of them
    # Of the devices that hold shares of one's secrets, so many unmask; always more than half of them.
    threshold: Fraction = 0.5
    # With whom a device shares masks; 0: with as few as is safe, with all in a small fleet. Else an even number.
    neighbours: Annotated[int, Meta(ge=0, le=4096)] = 0


class RunSpec(Settings, frozen=True):
    """A whole run. Equal specs on equal data and equal kernels give bit-identical models, live or simulated."""

    name: str = "run"  # the beginning of the run's id
    seed: Seed = 0  # of everything random in the run
    method: dict[str, Any] = field(default_factory=lambda: {"name": "tinyfleet"})  # below, by method
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    data: DataSettings = DataSettings()
    fleet: FleetSettings = FleetSettings()
    wire: WireSettings = WireSettings()
    privacy: PrivacySettings = PrivacySettings()
    secure_aggregation: SecureAggregationSettings = SecureAggregationSettings()
    # What of a run is exported: its last state, the best on validation data, or the mean of its last rounds.
    result: Literal["last", "best", "averaged"] = "last"
    # What numbers and labels mean: every board's data is held to it. `run submit` takes it from the gateway's.
    contract: DataDescription | None = None
