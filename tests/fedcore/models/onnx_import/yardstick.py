"""Ten models that people train on boards, written in torch as their papers and reference code have them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def cbr(i, o, k=3, s=1, g=1, act=nn.ReLU, d=2):
    conv, norm = ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d))[d - 1]
    parts = [conv(i, o, k, s, k // 2, groups=g, bias=False), norm(o)]
    return nn.Sequential(*parts, *([act()] if act else []))


class Head(nn.Sequential):
    """Features, the mean of the image, a linear layer."""

    def __init__(self, features, width, classes):
        super().__init__(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def mobilenet_v1(width=0.25, classes=2):
    rows = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    channels = int(32 * width)
    parts = [cbr(3, channels, s=2)]
    for out, stride in rows:
        parts += [cbr(channels, channels, s=stride, g=channels), cbr(channels, int(out * width), 1)]
        channels = int(out * width)
    return Head(nn.Sequential(*parts), channels, classes)


class Residual(nn.Module):
    def __init__(self, i, o, s):
        super().__init__()
        self.main = nn.Sequential(cbr(i, o, s=s), cbr(o, o, act=None))
        self.shortcut = nn.Identity() if i == o and s == 1 else nn.Conv2d(i, o, 1, s)

    def forward(self, x):
        return functional.relu(self.main(x) + self.shortcut(x))


def resnet8(classes=10):
    parts = [cbr(3, 16), Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2)]
    return Head(nn.Sequential(*parts), 64, classes)


def ds_cnn(classes=12):
    """49 x 10 MFCC frames; the first kernel is 10 x 4, padded alike on both sides here."""
    stem = nn.Sequential(
        nn.Conv2d(1, 64, (10, 4), 2, (5, 2), bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.Dropout()
    )
    rows = [nn.Sequential(cbr(64, 64, g=64), cbr(64, 64, 1)) for _ in range(4)]
    return Head(nn.Sequential(stem, *rows, nn.Dropout()), 64, classes)


def autoencoder(values=640):
    widths = [values, 128, 128, 128, 128, 8, 128, 128, 128, 128]
    parts = []
    for i, o in zip(widths, widths[1:], strict=False):
        parts += [nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(128, values))


class Inverted(nn.Module):
    def __init__(self, i, o, k, s, hidden, act=nn.ReLU6, squeeze=False):
        super().__init__()
        self.adds = s == 1 and i == o
        expand = [] if hidden == i else [cbr(i, hidden, 1, act=act)]
        attend = [Attention(hidden)] if squeeze else []
        parts = [*expand, cbr(hidden, hidden, k, s, hidden, act=act), *attend, cbr(hidden, o, 1, act=None)]
        self.body = nn.Sequential(*parts)

    def forward(self, x):
        return x + self.body(x) if self.adds else self.body(x)


class Attention(nn.Module):
    """Squeeze and excite."""

    def __init__(self, channels):
        super().__init__()
        inner = max(8, int(channels / 4 + 4) // 8 * 8)
        self.body = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, inner, 1), nn.ReLU(), nn.Conv2d(inner, channels, 1),
            nn.Hardsigmoid(),
        )  # fmt: skip

    def forward(self, x):
        return x * self.body(x)


def efficientnet_lite0(classes=10):
    rows = [(1, 16, 3, 1, 1), (6, 24, 3, 2, 2), (6, 40, 5, 2, 2), (6, 80, 3, 2, 3), (6, 112, 5, 1, 3),
            (6, 192, 5, 2, 4), (6, 320, 3, 1, 1)]  # fmt: skip
    parts, channels = [cbr(3, 32, s=2, act=nn.ReLU6)], 32
    for expansion, out, kernel, stride, repeats in rows:
        for index in range(repeats):
            parts.append(Inverted(channels, out, kernel, stride if not index else 1, channels * expansion))
            channels = out
    return Head(nn.Sequential(*parts, cbr(320, 1280, 1, act=nn.ReLU6)), 1280, classes)


def mobilenet_v3_small(classes=10):
    relu, swish = nn.ReLU, nn.Hardswish
    rows = [(3, 16, 16, True, relu, 2), (3, 72, 24, False, relu, 2), (3, 88, 24, False, relu, 1),
            (5, 96, 40, True, swish, 2), (5, 240, 40, True, swish, 1), (5, 240, 40, True, swish, 1),
            (5, 120, 48, True, swish, 1), (5, 144, 48, True, swish, 1), (5, 288, 96, True, swish, 2),
            (5, 576, 96, True, swish, 1), (5, 576, 96, True, swish, 1)]  # fmt: skip
    parts, channels = [cbr(3, 16, s=2, act=swish)], 16
    for kernel, hidden, out, squeeze, act, stride in rows:
        parts.append(Inverted(channels, out, kernel, stride, hidden, act, squeeze))
        channels = out
    features = nn.Sequential(*parts, cbr(96, 576, 1, act=swish), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(features, nn.Linear(576, 1024), swish(), nn.Dropout(0.2), nn.Linear(1024, classes))


class Fire(nn.Module):
    def __init__(self, i, squeeze, each):
        super().__init__()
        self.squeeze = nn.Conv2d(i, squeeze, 1)
        self.small, self.large = nn.Conv2d(squeeze, each, 1), nn.Conv2d(squeeze, each, 3, padding=1)

    def forward(self, x):
        x = functional.relu(self.squeeze(x))
        return torch.cat([functional.relu(self.small(x)), functional.relu(self.large(x))], 1)


def squeezenet(classes=10):
    pool = nn.MaxPool2d(3, 2, ceil_mode=True)
    fires = [Fire(64, 16, 64), Fire(128, 16, 64), pool, Fire(128, 32, 128), Fire(256, 32, 128), pool]
    fires += [Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)]
    stem = [nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool]
    head = [nn.Dropout(), nn.Conv2d(512, classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*stem, *fires, *head)


class Shuffled(nn.Module):
    """A unit of ShuffleNetV2."""

    def __init__(self, i, o, s):
        super().__init__()
        half, source = o // 2, i if s == 2 else i // 2
        self.aside = nn.Sequential(cbr(i, i, s=2, g=i, act=None), cbr(i, half, 1)) if s == 2 else None
        parts = [cbr(source, half, 1), cbr(half, half, s=s, g=half, act=None), cbr(half, half, 1)]
        self.body = nn.Sequential(*parts)

    def forward(self, x):
        left, right = (self.aside(x), x) if self.aside else x.chunk(2, 1)
        y = torch.cat([left, self.body(right)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet_v2(classes=10):
    parts, channels = [cbr(3, 24, s=2), nn.MaxPool2d(3, 2, 1)], 24
    for out, repeats in ((48, 4), (96, 8), (192, 4)):
        parts += [Shuffled(channels if not i else out, out, 1 if i else 2) for i in range(repeats)]
        channels = out
    return Head(nn.Sequential(*parts, cbr(192, 1024, 1)), 1024, classes)


class Causal(nn.Module):
    """A residual block of a temporal convolutional network: it looks back alone."""

    def __init__(self, i, o, dilation, kernel=3):
        super().__init__()
        self.back = (kernel - 1) * dilation
        self.one = nn.Conv1d(i, o, kernel, dilation=dilation)
        self.two = nn.Conv1d(o, o, kernel, dilation=dilation)
        self.shortcut = nn.Identity() if i == o else nn.Conv1d(i, o, 1)

    def forward(self, x):
        y = functional.relu(self.one(functional.pad(x, (self.back, 0))))
        y = functional.relu(self.two(functional.pad(y, (self.back, 0))))
        return functional.relu(y + self.shortcut(x))


class Tcn(nn.Module):
    def __init__(self, classes=6):
        super().__init__()
        self.body = nn.Sequential(Causal(9, 32, 1), Causal(32, 32, 2), Causal(32, 32, 4), Causal(32, 32, 8))
        self.output = nn.Linear(32, classes)

    def forward(self, x):
        return self.output(self.body(x).mean(2))


def cnn_1d(classes=6):
    parts = [cbr(9, 32, 5, d=1), nn.MaxPool1d(2), cbr(32, 64, 5, d=1), nn.MaxPool1d(2), cbr(64, 64, 3, d=1)]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(64 * 32, classes))


MODELS = {
    "mobilenet_v1": (mobilenet_v1, (3, 64, 64)),
    "resnet8": (resnet8, (3, 32, 32)),
    "ds_cnn": (ds_cnn, (1, 49, 10)),
    "autoencoder": (autoencoder, (640,)),
    "efficientnet_lite0": (efficientnet_lite0, (3, 64, 64)),
    "mobilenet_v3_small": (mobilenet_v3_small, (3, 64, 64)),
    "squeezenet": (squeezenet, (3, 65, 65)),
    "shufflenet_v2": (shufflenet_v2, (3, 64, 64)),
    "tcn": (Tcn, (9, 128)),
    "cnn_1d": (cnn_1d, (9, 128)),
}


def export(name, path, *, merged=False, seed=0):
    """Write one with lived-in norms; ``merged``: as torch does by default, batch norms within convolutions."""
    make, shape = MODELS[name]
    torch.manual_seed(seed)
    model = make().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
    mode = torch.onnx.TrainingMode.EVAL if merged else torch.onnx.TrainingMode.PRESERVE
    torch.onnx.export(model, torch.zeros(1, *shape), str(path), dynamo=False, training=mode)
    return model, shape
