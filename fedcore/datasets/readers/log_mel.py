"""Log-mel spectrograms in numpy: what small keyword spotters take.

Hann windows, power, triangular filters equal on the mel scale 2595 log10(1 + f / 700) (O'Shaughnessy 1987), log.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyfleet.fedcore.arrays import FloatArray

FLOOR = 1e-6  # power below which all is silence


@dataclass(frozen=True, slots=True)
class LogMel:
    """The front end's parameters; they travel in the description of the data."""

    rate: int  # samples a second
    frame: int  # samples of a window
    hop: int  # samples from one to the next
    mels: int
    low_hz: float
    high_hz: float

    def __call__(self, signal: FloatArray) -> FloatArray:
        """(mels, frames) float32 of a signal of -1..1, one frame at least long."""
        count = 1 + (len(signal) - self.frame) // self.hop
        starts = self.hop * np.arange(count)[:, None]
        frames = signal[starts + np.arange(self.frame)] * np.hanning(self.frame + 1)[:-1]
        power = np.abs(np.fft.rfft(frames, self.points)) ** 2 / self.frame
        mels: FloatArray = np.log(np.maximum(power @ self.filters().T, FLOOR)).T.astype(np.float32)
        return mels

    @property
    def points(self) -> int:
        """Of the transform: the frame's length, rounded up to a power of two."""
        return 1 << (self.frame - 1).bit_length()

    def filters(self) -> FloatArray:
        """(mels, points / 2 + 1) weights of the power spectrum."""
        edges = _hertz(np.linspace(_mel(self.low_hz), _mel(self.high_hz), self.mels + 2))
        bins = np.arange(self.points // 2 + 1) * self.rate / self.points
        rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
        falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
        weights: FloatArray = np.maximum(0.0, np.minimum(rising, falling))
        return weights


def resampled(signal: FloatArray, rate: int, wanted: int) -> FloatArray:
    """Band-limited, by its spectrum."""
    if rate == wanted or not len(signal):
        return signal
    count = max(1, round(len(signal) * wanted / rate))
    spectrum = np.fft.rfft(signal)[: count // 2 + 1]
    result: FloatArray = np.fft.irfft(spectrum, count) * (count / len(signal))
    return result


def _mel(hertz: float) -> float:
    return float(2595.0 * np.log10(1.0 + hertz / 700.0))


def _hertz(mel: FloatArray) -> FloatArray:
    result: FloatArray = 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return result
