"""Graphs as torch.nn models in float64: what every engine is held against."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from tinyfleet.fedcore.models.graph import Op  # noqa: E402

MEANS = {1: torch.nn.functional.avg_pool1d, 2: torch.nn.functional.avg_pool2d}
POOLS = {1: torch.max_pool1d, 2: torch.max_pool2d}


def sides(node):
    """Padding as torch.nn.functional.pad takes it, where that before the image is not that behind it."""
    d = len(node.kernel)
    before, behind = node.padding[:d], node.padding[d:]
    if not behind:
        return []
    return [side for i in reversed(range(d)) for side in (before[i], behind[i])]


def cut(x, padding):
    d = len(padding) // 2
    sides = zip(x.shape[2:], padding[:d], padding[d:], strict=True)
    return x[(..., *(slice(before, size - behind) for size, before, behind in sides))]


def pooled(node, x, value=0.0):
    """Arguments of a pool."""
    if sides(node):
        return torch.nn.functional.pad(x, sides(node), value=value), node.kernel, node.stride, 0
    return x, node.kernel, node.stride, node.padding


class Reference(torch.nn.Module):
    """The same graph out of torch.nn layers, in float64."""

    def __init__(self, graph, params):
        super().__init__()
        self.graph, self.layers = graph, torch.nn.ModuleDict()
        for n in graph.nodes:
            if n.op is Op.CONV:
                kind = torch.nn.Conv1d if len(n.kernel) == 1 else torch.nn.Conv2d
                padding = 0 if sides(n) else n.padding
                layer = kind(
                    n.in_channels, n.out_channels, n.kernel, n.stride, padding, n.dilation or 1, n.groups, n.bias
                )
            elif n.op is Op.LINEAR:
                layer = torch.nn.Linear(n.in_channels, n.out_channels, bias=n.bias)
            elif n.op is Op.BATCH_NORM:
                kind = torch.nn.BatchNorm1d if len(graph.shapes[n.name]) < 3 else torch.nn.BatchNorm2d
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
                x = torch.nn.functional.pad(a[0], sides(n)) if sides(n) else a[0]
                values[n.name] = self.layers[n.name](x)
            else:
                values[n.name] = {
                    Op.RELU: lambda a=a, n=n: n.gain * torch.relu(a[0]),
                    Op.RELU6: lambda a=a, n=n: n.gain * torch.clamp(a[0], 0, 6),
                    Op.LEAKY_RELU: lambda a=a: torch.nn.functional.leaky_relu(a[0], 0.01),
                    Op.HARD_SWISH: lambda a=a: torch.nn.functional.hardswish(a[0]),
                    Op.HARD_SIGMOID: lambda a=a: torch.nn.functional.hardsigmoid(a[0]),
                    Op.SIGMOID: lambda a=a: torch.sigmoid(a[0]),
                    Op.SOFTMAX: lambda a=a: torch.softmax(a[0], 1),
                    Op.TANH: lambda a=a: torch.tanh(a[0]),
                    Op.MUL: lambda a=a: a[0] * (a[1] if a[0].dim() == a[1].dim() else a[1][:, :, None, None]),
                    Op.SLICE: lambda a=a, n=n: a[0].narrow(1, n.start, n.out_channels),
                    Op.SHUFFLE: lambda a=a, n=n: torch.nn.functional.channel_shuffle(a[0], n.groups),
                    Op.CROP: lambda a=a, n=n: cut(a[0], n.padding),
                    Op.UPSAMPLE: lambda a=a, n=n: torch.nn.functional.interpolate(a[0], scale_factor=n.kernel),
                    Op.ADD: lambda a=a: a[0] + a[1],
                    Op.CONCAT: lambda a=a: torch.cat(a, 1),
                    Op.AVG_POOL: lambda a=a, n=n: (
                        MEANS[len(n.kernel)](*pooled(n, a[0]))
                        / MEANS[len(n.kernel)](*pooled(n, torch.ones_like(a[0])))
                    ),
                    Op.MAX_POOL: lambda a=a, n=n: POOLS[len(n.kernel)](*pooled(n, a[0], -math.inf)),
                    Op.FLATTEN: lambda a=a: a[0].flatten(1),
                    Op.DROPOUT: lambda a=a: a[0],  # in use; what it drops in training is its own test
                    Op.GLOBAL_AVG_POOL: lambda a=a: a[0].flatten(2).mean(-1),
                }[n.op]()
        return values[self.graph.output]

    def numpy(self):
        state = self.state_dict().items()
        return {k.removeprefix("layers."): v.numpy() for k, v in state if "num_batches_tracked" not in k}
