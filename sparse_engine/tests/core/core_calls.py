"""Random calls of the compiled part, right and wrong: ``core_calls.py FIRST COUNT`` makes a session a seed.

Run in a process of its own: each seed is printed before its session, so that the last one is that of a crash. Ends
with the number of calls that were done and of those that were refused.
"""

from __future__ import annotations

import random
import sys
from collections import Counter

import numpy as np

from sparse_engine import _core

REFUSALS = (TypeError, ValueError, RuntimeError, MemoryError)
NUMBERS = (-(2**63), -(2**31), -7, -2, 2**31 - 1, 2**31, 2**63, None, "1", 0.5)
SHARES = (0.0, -1.0, 1.5, float("nan"), float("inf"), None)
MOST_BYTES = 1 << 26  # of an arena: what is larger is not run
ACTS = tuple(_core.Act)


class Session:
    """Objects of all kinds, and calls with arguments that mostly fit them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.wrong = self.random.choice((0.0, 0.01, 0.05, 0.3))  # share of arguments that do not fit
        self.told: Counter[str] = Counter()
        pick = self.random.choice
        self.channels, self.groups = pick(((1, 1), (4, 1), (4, 2), (6, 3), (8, 1), (8, 8), (12, 12), (5, 5)))
        self.size, self.kernel, self.stride = pick((1, 2, 3, 5, 16)), pick((1, 3)), pick((1, 1, 2, 3))
        self.samples = pick((1, 2, 3, 4, 6, 16, 32))
        self.out = (self.size + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1
        self.arenas = [_core.Arena(), _core.Arena()]
        self.pools = [_core.Pool(1), _core.Pool(2, pick((0, 2, 3)))]
        row = self.channels // self.groups * self.kernel**2
        self.weights = [_core.Weights(self.channels, row, pick((True, False)), n) for n in tuple(_core.WeightNorm)]
        self.norms = [_core.Norm(self.channels) for _ in range(2)]
        self.programs = [self.program() for _ in range(2)]
        self.counts = {id(p): Counter() for p in self.programs}
        self.backwards: dict[int, list[int]] = {id(p): [] for p in self.programs}
        for weights in self.weights:
            self.set_weights(weights)
        for program in self.programs:
            self.furnish(program)

    # -- arguments -----------------------------------------------------------------------

    def maybe(self, value, wrong=NUMBERS):
        """The value, or now and then one that does not fit."""
        return self.random.choice(wrong) if self.random.random() < self.wrong else value

    def number(self, program, kind: str):
        return self.maybe(self.random.randrange(max(1, self.counts[id(program)][kind])), (*NUMBERS, -1, 10**6))

    def tensor(self, program):
        return self.number(program, "tensor")

    def some_or_none(self, program, kind: str):
        return self.random.choice((-1, self.number(program, kind)))

    def share(self):
        return self.maybe(self.random.choice((0.1, 0.5, 1.0)), SHARES)

    def act(self):
        return self.maybe(self.random.choice(ACTS), (None, 1, "relu"))

    def flag(self):
        return self.maybe(self.random.choice((True, False)), (None, 2, "yes"))

    def view(self, program):
        return self.maybe(
            _core.View(
                self.tensor(program), self.some_or_none(program, "norm"), self.act(), self.share(), self.flag()
            ),
            (None, _core.View()),
        )

    def floats(self, count: int):
        fits = self.numbers.standard_normal(count, np.float32)
        if count and self.random.random() < 0.1:
            fits[self.random.randrange(count)] = self.random.choice((np.nan, np.inf, 0, 3e38))
        return self.maybe(
            fits,
            (
                None,
                fits[: count // 2],
                fits.reshape(-1, 1),
                fits.astype(complex),
                np.repeat(fits, 2)[::2],
                [[1.0]],
                "x",
            ),
        )

    def out_array(self, count: int):
        fits = np.empty(count, np.float32)
        fixed = fits.copy()
        fixed.flags.writeable = False
        return self.maybe(
            fits, (None, fits[1:], fits.astype(np.float64), np.empty(2 * count, np.float32)[::2], fixed)
        )

    def labels(self):
        fits = self.numbers.integers(0, self.channels, self.samples)
        return self.maybe(fits, (fits[1:], fits - 1, fits + self.channels, fits.astype(float), None, fits + 2**62))

    def channel_list(self):
        """Of all channels, in some order."""
        found = list(range(self.channels))
        self.random.shuffle(found)
        return self.maybe(
            [self.maybe(one, (*NUMBERS, -1, self.channels, 0)) for one in found], (None, [], found[1:])
        )

    def shape(self):
        shape = _core.ConvShape()
        fields = {
            "in_channels": self.channels, "out_channels": self.channels, "groups": self.groups,
            "kernel_h": self.kernel, "kernel_w": self.kernel, "stride_h": self.stride, "stride_w": self.stride,
            "pad_h": self.kernel // 2, "pad_w": self.kernel // 2,
            "in_h": self.size, "in_w": self.size, "out_h": self.out, "out_w": self.out,
            "end_h": self.kernel // 2, "end_w": -1, "dilation_h": 1, "dilation_w": 1,
        }  # fmt: skip
        for name, value in fields.items():
            setattr(shape, name, self.maybe(value, (-1, 0, 1, 2, 2**31 - 1, 2**31 - 2, 2**30, 2**16, 17)))
        return shape

    def window(self):
        sizes = [self.kernel, self.kernel, self.stride, self.stride, *[self.kernel // 2] * 3, -1]
        return _core.PoolShape(*(self.maybe(size, (-1, 0, 1, 2, 2**31 - 1, 2**30, 2**16)) for size in sizes))

    def wants(self, program):
        return _core.BackwardWants(
            self.view(program), self.tensor(program), self.view(program),
            self.some_or_none(program, "tensor"), self.some_or_none(program, "tensor"),
            self.flag(), self.share(), self.flag(),
        )  # fmt: skip

    # -- calls ---------------------------------------------------------------------------

    def call(self, name: str, function, *arguments, **more):
        try:
            found = function(*arguments, **more)
        except REFUSALS as error:
            self.told["refused" if str(error) or isinstance(error, MemoryError) else f"{name} says nothing"] += 1
            return None
        self.told[name] += 1
        return found

    def program(self):
        return _core.Program(self.random.choice(self.arenas), self.random.choice(self.pools), self.samples)

    def set_weights(self, weights):
        size = self.channels * self.channels // self.groups * self.kernel**2
        share = self.random.choice((0.0, 0.1, 0.5, 1.0))
        positions = np.flatnonzero(self.numbers.random(size) < share) if share < 1 else np.arange(size)
        positions = self.maybe(positions, (positions[::-1], positions - 1, positions + size, positions / 2, None))
        count = len(positions) if positions is not None else 1
        self.call("set", weights.set, positions, self.floats(count))

    def add_tensor(self, program, channels, size):
        floats = _core.tensor_floats(channels, size, size, self.samples, False)
        count = self.counts[id(program)]["tensor"]
        # Often apart, often on top of one another.
        offset = self.random.choice((count, count, self.random.randrange(count + 1))) * (-(-floats // 16) * 16)
        found = self.call(
            "tensor", program.tensor,
            self.maybe(channels, (0, -1, 2**16)), self.maybe(size, (0, -1, 2**31 - 1)),
            self.maybe(size, (0, 2**31 - 1)), self.maybe(offset, (-16, 8, 2**62, 2**63 - 16)), self.flag(),
        )  # fmt: skip
        self.counts[id(program)]["tensor"] += found is not None

    def furnish(self, program):
        """Tensors of two shapes, norms, a convolution and copies."""
        for _ in range(4):
            self.add_tensor(program, self.channels, self.size)
        if self.out != self.size:
            self.add_tensor(program, self.channels, self.out)
        self.add_tensor(program, 2 * self.channels, self.size)
        for norm in self.norms:
            self.counts[id(program)]["norm"] += (
                self.call("norm", program.norm, self.maybe(norm, (None, self))) is not None
            )
        for weights in self.weights:
            shape, dense = self.shape(), self.random.choice((0.0, 0.7, 2.0))
            found = self.call("convolution", program.convolution, shape, weights, self.maybe(dense, SHARES))
            self.counts[id(program)]["convolution"] += found is not None
        self.add_cache(program)
        self.add_cache(program)

    def add_cache(self, program):
        half, codes, keep = self.flag(), self.random.choice((0, 1, 2)), self.share()
        floats = self.call(
            "cache_floats", _core.cache_floats,
            self.channels, self.size, self.size, self.maybe(self.samples), keep, half, self.maybe(codes),
        )  # fmt: skip
        if floats is not None:
            offset = self.maybe(16 * self.random.randrange(4), (-16, 1, 2**62))
            like = self.tensor(program)
            found = self.call("cache", program.cache, like, offset, self.maybe(floats, (0, -1, 65, 2**62)), half)
            self.counts[id(program)]["cache"] += found is not None

    def build(self, p):
        """Append one operation."""
        t, view = (lambda: self.tensor(p)), (lambda: self.view(p))
        conv, norm, cache = (lambda kind=kind: self.number(p, kind) for kind in ("convolution", "norm", "cache"))
        gain, act, flag = self.share, self.act, self.flag
        calls = {
            "forward": lambda: (conv(), view(), t(), self.some_or_none(p, "norm")),
            "backward": lambda: (conv(), self.wants(p)),
            "backward again": lambda: (conv(), self.wants(p)),
            "batch_statistics": lambda: (t(), norm()),
            "running_statistics": lambda: (norm(),),
            "norm_gradient": lambda: (t(), view()),
            "combine": lambda: (view(), self.random.choice((view(), _core.View())), t(), act(), gain()),
            "slope_by_output": lambda: (t(), t(), act(), gain()),
            "view_gradient": lambda: (t(), view(), t(), flag()),
            "pool": lambda: (view(), t(), self.window(), flag()),
            "pool_gradient": lambda: (t(), view(), t(), self.window(), flag(), flag()),
            "concatenate": lambda: (view(), t(), self.maybe(0, (*NUMBERS, self.channels))),
            "concatenate_gradient": lambda: (t(), self.maybe(self.channels), t(), flag()),
            "multiply": lambda: (view(), view(), t()),
            "multiply_gradient": lambda: (t(), view(), t(), flag()),
            "take": lambda: (view(), t(), self.channel_list()),
            "take_gradient": lambda: (t(), t(), self.channel_list(), flag()),
            "crop": lambda: (view(), t(), self.maybe(0), self.maybe(0)),
            "crop_gradient": lambda: (t(), t(), self.maybe(0), self.maybe(0), flag()),
            "dropout": lambda: (t(), self.maybe(0.3, SHARES), self.maybe(3)),
            "compress": lambda: (view(), self.share(), cache()),
            "expand": lambda: (cache(), t()),
            "encode": lambda: (view(), cache()),
            "decode": lambda: (cache(), act(), gain(), t()),
            "pruned_norm_gradient": lambda: (t(), t(), norm()),
            "loss": lambda: (t(), self.some_or_none(p, "tensor")),
        }
        chosen = self.random.choice(tuple(calls))
        name = chosen.split()[0]
        try:
            arguments = calls[chosen]()
        except REFUSALS:
            self.told["refused"] += 1
            return
        before = len(p)
        self.call(name, getattr(p, name), *arguments)
        if name == "backward" and len(p) > before:
            self.backwards[id(p)].append(before)

    def run(self, p):
        """Begin, run some or all, and look at what came out."""
        values = self.samples * self.channels * self.size**2
        if (self.call("bytes", lambda: p.bytes) or 0) > MOST_BYTES:
            return
        if self.random.random() < 0.9:
            self.call("begin", p.begin, self.floats(values), self.tensor(p))
        ends = self.maybe(0), self.maybe(len(p), (*NUMBERS, len(p) + 1))
        objective = self.random.choice(tuple(_core.Objective))
        self.call("run", p.run, self.labels(), *ends, self.share(), self.share(), objective, self.maybe(1))
        self.call("output", p.output, self.tensor(p), self.out_array(values))
        row = self.channels // self.groups * self.kernel**2
        first = self.random.randrange(self.channels)
        chosen = self.maybe(self.random.choice(self.backwards[id(p)] or [0]), (*NUMBERS, 0, len(p)))
        out = self.out_array((self.channels - first) * row)
        self.call("dense_gradient", p.dense_gradient, chosen, self.maybe(first), self.maybe(self.channels), out)

    def change(self):
        """Something else than a program."""
        weights, norm = self.random.choice(self.weights), self.random.choice(self.norms)
        param = self.random.choice((weights.param, weights.bias, weights.gain, norm.gamma, norm.beta))
        sgd = self.call("Sgd", _core.Sgd, self.share(), self.share(), self.share(), self.share())
        choice = self.random.randrange(10)
        if choice == 0:
            self.set_weights(weights)
        elif choice == 1:
            marks = self.numbers.integers(0, self.channels, 3)
            self.call("mark", weights.mark, self.maybe(marks, (marks - 9, marks + 2**40, None)))
            self.call("marked_square", weights.marked_square)
        elif choice == 2:
            owner = self.random.choice((weights, norm))
            self.call("update", owner.update, self.maybe(sgd, (None, 1)))
            self.call("zero_gradient", owner.zero_gradient)
        elif choice == 3:
            value = self.floats(len(param.value))
            self.call("value", setattr, param, self.random.choice(("value", "velocity")), value)
        elif choice == 4:
            self.call("running", setattr, norm, "running_mean", self.floats(self.channels))
            self.call("running", setattr, norm, "running_var", self.floats(self.channels))
            assert len(weights.positions) == len(weights) == len(weights.param.gradient)
        elif choice == 5:
            self.random.choice(self.arenas).release()
        elif choice == 6:
            self.random.choice(self.programs).release()
        elif choice == 7:
            kind = self.random.choice((_core.Program, _core.Weights, _core.Norm, _core.Pool, _core.Arena))
            unmade = kind.__new__(kind)
            method = self.random.choice([name for name in dir(kind) if not name.startswith("_")])
            self.call("unmade", lambda name=method: getattr(unmade, name)())
        elif choice == 8:
            numbers = [self.random.choice((*NUMBERS, 0, -1, 3)) for _ in range(8)]
            self.call("Pool", _core.Pool, self.random.choice((0, -1, 257, 2**31, None, 1)), numbers[0])
            self.call("Weights", _core.Weights, self.random.choice((0, -3, 2**31 - 1, 2**31)), *numbers[:3])
            self.call("Norm", _core.Norm, self.random.choice((0, -1, 2**31 - 1, 2**31)))
            self.call(
                "Program", _core.Program, *self.random.sample((*self.arenas, *self.pools, None), 2), numbers[0]
            )
            self.call("tensor_floats", _core.tensor_floats, *numbers[:5])
            self.call("cache_floats", _core.cache_floats, *numbers[:4], self.share(), *numbers[4:6])
            self.call("lanes_for", _core.lanes_for, numbers[0])
            self.call("peak_gflops", _core.peak_gflops, self.random.choice((-1, 2**30 + 1, 2**63, None)))
        else:
            program = self.random.choice(self.programs)
            self.add_tensor(program, self.channels, self.size)

    def go(self) -> Counter[str]:
        for _ in range(self.random.choice((3, 8))):
            program = self.random.choice(self.programs)
            for _ in range(self.random.choice((1, 3, 12))):
                self.build(program)
            for _ in range(self.random.choice((0, 1, 2))):
                self.change()
            self.run(program)
        return self.told


def main(first: int, count: int) -> None:
    told: Counter[str] = Counter()
    for seed in range(first, first + count):
        print(f"seed {seed}", flush=True)  # noqa: T201
        told += Session(seed).go()
    print(dict(sorted(told.items())), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
