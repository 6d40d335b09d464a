"""Files that a person writes: both daemons' settings, runs, boards, cost models."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.mutation import vary_toml
from tests.fuzz.target import Prepared, Target, file_parse
from tinyfleet.coordinator.config import CoordinatorConfig
from tinyfleet.device_profiles import profile
from tinyfleet.edge_agent import config
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.methods import registry
from tinyfleet.fedcore.planning import cost_model_file
from tinyfleet.fedcore.run_spec import RunSpec
from tinyfleet.fedcore.settings import read_toml

ROOT = Path(__file__).parents[3]
COORDINATOR = b"""\
auto_accept = true
heartbeat_s = 5.0
max_result_bytes = 1000000
engine = "auto"

[broker]
url = "mqtt://127.0.0.1:1883"
protocol = "auto"

[limits]
messages_per_s = 200.0
pending = 256
"""


LAYERS = b"""\
[model]
input_shape = [1, 8, 8]
classes = 3
layers = [
  { kind = "conv", out = 4, kernel = 3 },
  { kind = "batch_norm" },
  { kind = "relu", name = "a" },
  { kind = "conv", out = 4, kernel = [3, 1], inputs = "a" },
  { kind = "add", inputs = ["a", "conv2"] },
  { kind = "global_avg_pool" },
  { kind = "linear", out = 3 },
]
blocks = [["conv2"]]
"""


def _agent(directory: Path) -> Prepared:
    seeds = [config.as_toml(config.AgentConfig()).encode(), b'name = "b"\n[limits]\nmemory_limit = "600M"\n']
    return Prepared(file_parse(directory / "agent.toml", lambda path: config.load(path, {})), seeds, vary_toml)


def _coordinator(directory: Path) -> Prepared:
    read = file_parse(directory / "coordinator.toml", lambda path: read_toml(path, CoordinatorConfig))
    return Prepared(read, [COORDINATOR], vary_toml)


def _run(directory: Path) -> Prepared:
    def read(path: Path) -> object:
        spec = read_toml(path, RunSpec)
        return registry.create(spec.method, registry.problem_of(spec))

    seeds = [path.read_bytes() for path in sorted((ROOT / "examples").glob("*.toml"))]
    seeds += [
        f'[method]\nname = "{name}"\n[model]\nname = "{model}"\ninput_shape = {shape}\nclasses = 10\n'.encode()
        for name, model, shape in (
            ("tinyfleet", "small_cnn", [1, 28, 28]),
            ("fedavg", "resnet8", [3, 32, 32]),
            ("prunefl", "sensor_cnn", [6, 100]),
            ("static", "mobilenet_v2", [3, 32, 32]),
        )
    ]
    seeds.append(LAYERS)
    return Prepared(file_parse(directory / "run.toml", read), [s for s in seeds if b"[model]" in s], vary_toml)


def _board(directory: Path) -> Prepared:
    seeds = [path.read_bytes() for path in sorted(profile.BOARDS.glob("*.toml"))[:12]]
    seeds.append(
        seeds[0] + b"\n[measured]\nusable_memory_bytes = 1\ncores = 1\nconvolution_gflops = 1.0\n"
        b"memory_bandwidth_gbs = 1.0\ndisk_write_mbs = 1.0\n"
        b"[measured.thermal]\nseconds = 1\ncores = 1\ngflops = 1.0\nsustained_share = 1.0\n"
        b'[[measured.rates]]\nkernel = "dense"\ndensity = 1.0\ndtype = "fp32"\ngflops = 1.0\n'
    )

    def read(path: Path) -> object:
        found = profile.read(path)
        assert profile.DeviceProfile.from_toml(found.to_toml()) == found
        return found

    return Prepared(file_parse(directory / "board.toml", read), seeds, vary_toml)


def _costs(directory: Path) -> Prepared:
    seeds = [path.read_bytes()[:2000].rpartition(b"\n")[0] for path in cost_model_file.SHIPPED.glob("*.toml")]
    return Prepared(file_parse(directory / "costs.toml", cost_model_file.read), seeds, vary_toml)


SETTINGS = (
    Target("agent-toml", (ConfigError,), _agent),
    Target("coordinator-toml", (ConfigError,), _coordinator),
    Target("run-toml", (ConfigError,), _run),
    Target("board-toml", (profile.ProfileError,), _board),
    Target("cost-model-toml", (ConfigError,), _costs),
)
