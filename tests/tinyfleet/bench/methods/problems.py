from __future__ import annotations

import msgspec

from tinyfleet.bench.methods.config import BenchConfig

TINY = """
name = "tiny"
densities = [0.5]
seeds = [0]
evaluate_every = 2
last = 2
[base.training]
rounds = 4
batch = 16
pretrain_epochs = 1
[base.model]
input_shape = [1, 8, 8]
arguments = { width = 4 }
[base.data]
source = "digits"
limit = 240
partition = { kind = "dirichlet", devices = 2 }
[[methods]]
method = { name = "fedavg" }
[[methods]]
method = { name = "fedtiny", interval = 1, stop = 3, candidates = 2, statistics_passes = 1 }
"""


def tiny(text: str = TINY, **changes: object) -> BenchConfig:
    """Two methods, four rounds, a second each."""
    return msgspec.structs.replace(msgspec.toml.decode(text, type=BenchConfig), **changes)
