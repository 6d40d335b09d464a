"""Graphs as torch.nn models in float64: what every engine is held against."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from tinyfleet.fedcore.models.graph import Op  # noqa: E402

MEANS = {1: torch.nn.functional.avg_pool1d, 2: torch.nn.functional.avg_pool2d}
POOLS = {1: torch.max_pool1d, 2: torch.max_pool2d}


class Reference(torch.nn.Module):
    """The same graph out of torch.nn layers, in float64."""

    def __init__(self, graph, params):
        super().__init__()
        self.graph, self.layers = graph, torch.nn.ModuleDict()
        for n in graph.nodes:
            if n.op is Op.CONV:
                kind = torch.nn.Conv1d if len(n.kernel) == 1 else torch.nn.Conv2d
                layer = kind(
                    n.in_channels, n.out_channels, n.kernel, n.stride, n.padding, groups=n.groups, bias=n.bias
                )
            elif n.op is Op.LINEAR:
                layer = torch.nn.Linear(n.in_channels, n.out_channels, bias=n.bias)
            elif n.op is Op.BATCH_NORM:
                kind = torch.nn.BatchNorm1d if len(graph.input_shape) == 2 else torch.nn.BatchNorm2d
                layer = kind(n.out_channels)
            else:
                continue
            self.layers[n.name] = layer
        self.double()
        own = {f"layers.{name}": torch.from_numpy(value).double() for name, value in params.items()}
        missing, unexpected = self.load_state_dict(own, strict=False)
        assert not unexpected
        assert all("num_batches_tracked" in name for name in missing)

    def forward(self, x):
        values = {"input": x}
        for n in self.graph.nodes:
            a = [values[name] for name in n.inputs]
            if n.name in self.layers:
                values[n.name] = self.layers[n.name](a[0])
            else:
                values[n.name] = {
                    Op.RELU: lambda a=a, n=n: n.gain * torch.relu(a[0]),
                    Op.RELU6: lambda a=a, n=n: n.gain * torch.clamp(a[0], 0, 6),
                    Op.LEAKY_RELU: lambda a=a: torch.nn.functional.leaky_relu(a[0], 0.01),
                    Op.HARD_SWISH: lambda a=a: torch.nn.functional.hardswish(a[0]),
                    Op.ADD: lambda a=a: a[0] + a[1],
                    Op.CONCAT: lambda a=a: torch.cat(a, 1),
                    Op.AVG_POOL: lambda a=a, n=n: MEANS[len(n.kernel)](
                        a[0], n.kernel, n.stride, n.padding, count_include_pad=False
                    ),
                    Op.MAX_POOL: lambda a=a, n=n: POOLS[len(n.kernel)](a[0], n.kernel, n.stride, n.padding),
                    Op.FLATTEN: lambda a=a: a[0].flatten(1),
                    Op.GLOBAL_AVG_POOL: lambda a=a: a[0].flatten(2).mean(-1),
                }[n.op]()
        return values[self.graph.output]

    def numpy(self):
        state = self.state_dict().items()
        return {k.removeprefix("layers."): v.numpy() for k, v in state if "num_batches_tracked" not in k}
