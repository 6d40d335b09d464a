from __future__ import annotations

import wave

import numpy as np
import pytest

from tinyfleet.fedcore.datasets.readers.log_mel import FLOOR, LogMel, resampled
from tinyfleet.fedcore.datasets.registry import load
from tinyfleet.fedcore.errors import DataError


def tone(hertz, rate, seconds=1.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def save(path, signal, rate, width=2, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = np.rint(signal * (2.0 ** (8 * width - 1) - 1)).astype(np.int64)
    if width == 1:
        whole += 128
    data = b"".join(int(value).to_bytes(width, "little", signed=width > 1) for value in np.repeat(whole, channels))
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(width)
        sound.setframerate(rate)
        sound.writeframes(data)


def test_filters_are_triangles_between_equal_steps_of_mel():
    front_end = LogMel(rate=8000, frame=256, hop=128, mels=3, low_hz=0.0, high_hz=4000.0)
    filters = front_end.filters()
    assert filters.shape == (3, 129)
    # 2595 log10(1 + 4000 / 700) = 2146.065 mel; its half is 700 (10 ** (1073.03 / 2595) - 1) = 1113.8 Hz.
    assert filters[1].argmax() * 8000 / 256 == pytest.approx(1113.8, abs=16)
    assert filters.min() == 0.0
    assert filters.max() <= 1.0
    inside = filters[:, (np.arange(129) * 31.25 > 500) & (np.arange(129) * 31.25 < 2000)]
    assert inside.sum(axis=0) == pytest.approx(1.0), "two neighbours share each frequency between their tops"


def test_a_tone_lies_in_its_band_and_silence_at_the_floor():
    front_end = LogMel(rate=16000, frame=512, hop=320, mels=40, low_hz=20.0, high_hz=8000.0)
    shown = front_end(tone(1000.0, 16000))
    assert shown.shape == (40, 49)
    assert shown.dtype == np.float32
    band = front_end.filters()[:, round(1000 * 512 / 16000)].argmax()
    assert set(shown.argmax(axis=0)) == {band}
    # Half the amplitude's square, times a Hann window's sum of squares over four: 0.25 * 512 ** 2 / 16 / 512.
    assert np.exp(shown[band, 10]) == pytest.approx(0.25 * 512 / 16, rel=0.5)
    assert front_end(np.zeros(16000)) == pytest.approx(np.log(FLOOR))


def test_resampling_keeps_what_both_rates_hold():
    assert resampled(tone(440.0, 44100), 44100, 16000) == pytest.approx(tone(440.0, 16000), abs=1e-6)
    assert np.abs(resampled(tone(7000.0, 16000), 16000, 8000)).max() < 1e-6


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_any_depth_rate_and_number_of_channels_is_one_spectrogram(tmp_path, width):
    save(tmp_path / "d" / "low" / "0.wav", tone(440.0, 16000), 16000)
    save(tmp_path / "d" / "same" / "0.wav", tone(440.0, 48000), 48000, width, channels=2)
    data = load(f"sounds:{tmp_path / 'd'}").train
    assert data.x.shape == (2, 1, 40, 49)
    loud = data.x[0] > np.log(1e-2)
    assert np.abs(data.x[0] - data.x[1])[loud].max() < (0.4 if width == 1 else 0.05)


def test_it_tells_how_it_was_computed(tmp_path):
    for name in ("no", "yes"):
        save(tmp_path / "d" / name / "0.wav", tone(440.0, 8000, 0.25), 8000)
    told = load(f"sounds:{tmp_path / 'd'}?rate=8000&seconds=0.5&mels=10&frame_ms=32&hop_ms=16").train.description
    assert told.front_end == {"rate": 8000, "frame": 256, "hop": 128, "mels": 10, "low_hz": 20.0, "high_hz": 4000.0}
    assert (told.layout, told.shape, told.classes, told.range) == ("CFT", (1, 10, 30), ("no", "yes"), None)
    assert told.rate == 62.5


def test_long_recordings_give_several_samples_and_short_ones_are_padded(tmp_path):
    save(tmp_path / "d" / "a" / "0.wav", tone(440.0, 8000, 2.3), 8000)
    save(tmp_path / "d" / "b" / "0.wav", tone(440.0, 8000, 0.2), 8000)
    save(tmp_path / "d" / "b" / "1.wav", np.zeros(0), 8000)
    data = load(f"sounds:{tmp_path / 'd'}?rate=8000").train
    assert list(data.y) == [0, 0, 1]
    assert data.x[2, 0, :, -1] == pytest.approx(np.log(FLOOR))
    assert data.meaning.skipped["an empty recording"].count == 1


def test_what_is_no_recording_is_named(tmp_path):
    for name in "ab":
        save(tmp_path / "d" / name / "0.wav", tone(440.0, 8000, 0.2), 8000)
    with pytest.raises(DataError, match="within half of rate"):
        load(f"sounds:{tmp_path / 'd'}?high_hz=9000")
    with pytest.raises(DataError, match="frame_ms 500 is no part of"):
        load(f"sounds:{tmp_path / 'd'}?frame_ms=500&seconds=0.1")
    (tmp_path / "d" / "b" / "0.wav").write_bytes(b"RIFF....WAVEfmt ")
    with pytest.raises(DataError, match=r"b/0\.wav cannot be read as a WAV file"):
        load(f"sounds:{tmp_path / 'd'}")
