"""Keys are kept for their owner alone, and their words are the stream's own."""

from __future__ import annotations

import stat

import pytest

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.privacy.noise_key import NoiseStream, kept_key, simulated_key


def test_a_key_is_made_once_and_readable_by_its_owner_alone(tmp_path):
    path = tmp_path / "deep" / "noise.key"
    key = kept_key(path)
    assert len(key) == 32
    assert kept_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert kept_key(tmp_path / "other.key") != key


def test_a_damaged_key_is_never_replaced(tmp_path):
    path = tmp_path / "noise.key"
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match="restore it"):
        kept_key(path)
    assert path.read_bytes() == b"short"


def test_simulated_keys_differ_by_seed_and_owner():
    assert len({simulated_key(seed, owner) for seed in (0, 1) for owner in ("a", "b")}) == 4


def test_more_bits_are_prefixes_of_each_other():
    stream = NoiseStream(bytes(32), b"")
    assert stream.more_bits(3, 5, 128) >> 64 == stream.more_bits(3, 5, 64)
    assert stream.more_bits(3, 5, 64) != stream.more_bits(3, 6, 64)
    assert stream.more_bits(3, 5, 64) != stream.more_bits(4, 5, 64)


def test_a_key_of_another_length_is_no_key():
    with pytest.raises(ValueError, match="32 bytes"):
        NoiseStream(b"", b"")
