"""Recordings as log-mel spectrograms: WAV files, a folder a class."""

from __future__ import annotations

import wave
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta

from tinyfleet.fedcore.arrays import FloatArray
from tinyfleet.fedcore.datasets.dataset import Dataset, Meaning
from tinyfleet.fedcore.datasets.files.boundary import Leftovers, class_name, reading, shown
from tinyfleet.fedcore.datasets.files.class_folders import class_files, classes_of
from tinyfleet.fedcore.datasets.readers.log_mel import LogMel, resampled
from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.run_spec import Settings

SUFFIXES = frozenset({".wav", ".wave"})
MOST_SAMPLES = 1 << 26  # of one file
MOST_VALUES = 1 << 28  # of all spectrograms


class SoundSettings(Settings, frozen=True):
    """``sounds:PATH?rate=16000&seconds=1&mels=40``."""

    rate: Annotated[int, Meta(ge=1000, le=192_000)] = 16_000  # a second; recordings are resampled to it
    seconds: Annotated[float, Meta(gt=0.0, le=60.0)] = 1.0  # of a sample; longer recordings give several
    frame_ms: Annotated[float, Meta(ge=1.0, le=1000.0)] = 32.0
    hop_ms: Annotated[float, Meta(ge=1.0, le=1000.0)] = 20.0
    mels: Annotated[int, Meta(ge=1, le=256)] = 40
    low_hz: Annotated[float, Meta(ge=0.0, le=96_000.0)] = 20.0
    high_hz: Annotated[float, Meta(ge=0.0, le=96_000.0)] = 0.0  # 0: half the rate

    def front_end(self) -> LogMel:
        """In samples. Raises ``DataError`` where the settings contradict each other."""
        high = self.high_hz or self.rate / 2
        frame, hop = round(self.frame_ms * self.rate / 1000), round(self.hop_ms * self.rate / 1000)
        if not self.low_hz < high <= self.rate / 2:
            raise DataError(f"low_hz {self.low_hz:g}, high_hz {high:g}: give a band within half of rate")
        if frame > self.seconds * self.rate or frame < 2:
            raise DataError(f"frame_ms {self.frame_ms:g} is no part of {self.seconds:g} s; give 32, say")
        return LogMel(self.rate, frame, hop, self.mels, self.low_hz, high)


def load(path: Path, settings: SoundSettings) -> tuple[Dataset, Dataset | None, str]:
    """Training part and, where there is one, test part. Raises ``DataError``."""
    if not path.is_dir():
        raise DataError(f"{shown(path)}: no such folder; give one with a folder of recordings for every class")
    split = (path / "train").is_dir()
    classes = classes_of(path / "train" if split else path)
    train = _read(path / "train" if split else path, classes, settings)
    test = _read(path / "test", classes, settings) if split and (path / "test").is_dir() else None
    return train, test, f"sounds of {shown(path.name)}"


def _read(root: Path, classes: list[str], settings: SoundSettings) -> Dataset:
    left_out, front_end = Leftovers(), settings.front_end()
    files = class_files(root, classes, SUFFIXES, left_out)
    length = round(settings.seconds * settings.rate)
    found: list[FloatArray] = []
    labels: list[int] = []
    for file, label in files:
        signal = resampled(*_signal(file), settings.rate)
        if not len(signal):
            left_out.add("an empty recording", file.name)
        for start in range(0, max(1, len(signal) - length + 1) if len(signal) else 0, length):
            clip = signal[start : start + length]
            found.append(front_end(np.pad(clip, (0, length - len(clip)))))
            labels.append(label)
        if found and len(found) * found[0].size > MOST_VALUES:
            raise DataError(f"{shown(root)}: more than {MOST_VALUES} values in all; give fewer recordings")
    if not found:
        raise DataError(f"{shown(root)}: no recordings ({', '.join(sorted(SUFFIXES))}) in its class folders")
    meaning = Meaning(
        classes=tuple(map(class_name, classes)),
        layout="CFT",
        units="log power",
        rate=settings.rate / front_end.hop,
        front_end=asdict(front_end),
        skipped=left_out.counted(),
    )
    return Dataset(np.stack(found)[:, None], np.array(labels, np.int64), len(classes), meaning)


def _signal(file: Path) -> tuple[FloatArray, int]:
    """One channel of -1..1, the mean of all, and its rate. Raises ``DataError``."""
    with reading(file, "a WAV file of whole numbers (PCM)"), wave.open(str(file), "rb") as sound:
        channels, width, rate = sound.getnchannels(), sound.getsampwidth(), sound.getframerate()
        if sound.getnframes() * channels > MOST_SAMPLES:
            raise DataError(f"it has {sound.getnframes()} samples; cut it into several files")
        if not 1000 <= rate <= 384_000 or width not in {1, 2, 3, 4}:
            raise DataError(f"it has {rate} samples a second of {width} bytes; give 8 to 32 bits")
        data = sound.readframes(sound.getnframes())
        data = data[: len(data) - len(data) % (channels * width)]
        if width == 1:
            values = np.frombuffer(data, np.uint8).astype(np.float64) / 128.0 - 1.0
        else:
            whole = np.zeros((len(data) // width, 4), np.uint8)
            whole[:, 4 - width :] = np.frombuffer(data, np.uint8).reshape(-1, width)
            values = whole.view("<i4")[:, 0] / 2.0**31
        signal: FloatArray = values.reshape(-1, channels).mean(axis=1)
        return signal, rate
