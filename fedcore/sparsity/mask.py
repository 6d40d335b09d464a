"""Masks: which weights of a layer are active. All selections are deterministic, ties go to the lower position."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from tinyfleet.fedcore.arrays import AnyArray, BoolArray, FloatArray, IntArray, Mask, Params


def apply_mask(params: Params, mask: Mask) -> None:
    """Set masked entries of ``params`` to zero, in place."""
    for name, active in mask.items():
        params[name][~active] = 0.0


def active_counts(mask: Mask) -> dict[str, int]:
    """Active weights of each masked layer."""
    return {name: int(np.count_nonzero(active)) for name, active in mask.items()}


def density(mask: Mask) -> float:
    """Active share of all weights that the mask covers; 1.0 for an empty mask."""
    total = sum(active.size for active in mask.values())
    return sum(active_counts(mask).values()) / total if total else 1.0


def mask_digest(mask: Mask) -> str:
    """SHA-256 (hex) of the mask's content: sorted names, shapes and packed bits."""
    digest = hashlib.sha256()
    for name in sorted(mask):
        active = mask[name]
        digest.update(f"{name}{active.shape}".encode())
        digest.update(np.packbits(active.reshape(-1), bitorder="little").tobytes())
    return digest.hexdigest()


def largest(values: FloatArray, positions: IntArray, count: int) -> IntArray:
    """Sorted subset of ``positions``: the ``count`` with the largest |value|, ties to the lower position.

    ``values[i]`` belongs to ``positions[i]``; ``positions`` rise.
    """
    if count >= len(positions):
        return positions
    if count <= 0:
        return positions[:0]
    magnitudes = np.abs(values)
    threshold = np.partition(magnitudes, len(magnitudes) - count)[len(magnitudes) - count]
    above = np.flatnonzero(magnitudes > threshold)
    ties = np.flatnonzero(magnitudes == threshold)[: count - len(above)]
    kept: IntArray = positions[np.sort(np.concatenate([above, ties]))]
    return kept


def smallest(values: FloatArray, positions: IntArray, count: int) -> IntArray:
    """Sorted subset of ``positions``: the ``count`` with the smallest |value|, ties to the lower position."""
    if count <= 0:
        return positions[:0]
    if count >= len(positions):
        return positions
    magnitudes = np.abs(values)
    threshold = np.partition(magnitudes, count - 1)[count - 1]
    below = np.flatnonzero(magnitudes < threshold)
    ties = np.flatnonzero(magnitudes == threshold)[: count - len(below)]
    kept: IntArray = positions[np.sort(np.concatenate([below, ties]))]
    return kept


def _at(positions: AnyArray, shape: tuple[int, ...]) -> BoolArray:
    flat = np.zeros(int(np.prod(shape)), np.bool_)
    flat[positions] = True
    return flat.reshape(shape)


def magnitude_mask(params: Params, counts: Mapping[str, int]) -> Mask:
    """Keep the ``counts[name]`` largest |weights| of each named layer."""
    mask: Mask = {}
    for name, count in counts.items():
        weights = params[name]
        kept = largest(weights.reshape(-1), np.arange(weights.size), count)
        mask[name] = _at(kept, weights.shape)
    return mask


def random_mask(shapes: Mapping[str, tuple[int, ...]], counts: Mapping[str, int], rng: np.random.Generator) -> Mask:
    """``counts[name]`` positions of each named layer, uniformly at random."""
    return {
        name: _at(rng.choice(int(np.prod(shapes[name])), size=count, replace=False), shapes[name])
        for name, count in counts.items()
    }


def adjust_layer(active: BoolArray, weights: FloatArray, grown: IntArray) -> tuple[BoolArray, IntArray]:
    """Grow ``grown``, then prune as many of the weights that were active BEFORE the growth (FedTiny, 3.3).

    Returns the new mask and the pruned positions; the active count never changes. ``grown`` are
    distinct flat positions of inactive weights; the smallest |weights| go.
    Raises ``ValueError`` where ``grown`` names an active weight or repeats a position.
    """
    flat = active.reshape(-1).copy()
    before = np.flatnonzero(flat)
    if len(np.unique(grown)) != len(grown) or flat[grown].any():
        raise ValueError("growth positions must be distinct and inactive")
    pruned = smallest(weights.reshape(-1)[before], before, len(grown))
    flat[grown] = True
    flat[pruned] = False
    if int(np.count_nonzero(flat)) != len(before):
        raise AssertionError(f"active count drifted from {len(before)} to {int(np.count_nonzero(flat))}")
    return flat.reshape(active.shape), pruned
