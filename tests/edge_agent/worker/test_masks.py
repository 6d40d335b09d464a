from __future__ import annotations

import numpy as np

from tinyfleet.edge_agent.worker.masks import KEPT_MASKS, MaskStore
from tinyfleet.fedcore.sparsity.mask import mask_digest


def test_masks_are_kept_by_digest_and_few(tmp_path):
    store, rng = MaskStore(tmp_path / "m"), np.random.default_rng(0)
    masks = [{"a.weight": rng.random((5, 3, 3)) < 0.5, "b.weight": rng.random((7, 2)) < 0.5} for _ in range(5)]
    digests = [store.put(mask) for mask in masks]
    assert len(list((tmp_path / "m").iterdir())) == KEPT_MASKS
    newest = store.get(digests[-1])
    assert mask_digest(newest) == digests[-1]
    assert {name: entries.shape for name, entries in newest.items()} == {"a.weight": (5, 3, 3), "b.weight": (7, 2)}
    assert store.get(digests[0]) is None
    assert store.get("../../etc/passwd") is None
    path = tmp_path / "m" / f"{digests[-1]}.mask"
    path.write_bytes(path.read_bytes()[:-20])
    assert store.get(digests[-1]) is None


def test_a_mask_file_with_other_content_is_not_held(tmp_path):
    store = MaskStore(tmp_path)
    digest = store.put({"a": np.array([True, False])})
    other = store.put({"a": np.array([False, True])})
    (tmp_path / f"{other}.mask").replace(tmp_path / f"{digest}.mask")
    assert store.get(digest) is None
