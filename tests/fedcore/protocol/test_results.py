from __future__ import annotations

import numpy as np
import pytest

from tinyfleet.fedcore.errors import UnknownMask
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol.codec import decode, encode
from tinyfleet.fedcore.protocol.results import encode_result
from tinyfleet.fedcore.run_spec import WireSettings

RNG = np.random.default_rng(0)
MASK = {"a.weight": RNG.random((40, 40)) < 0.3}
OTHER = {"a.weight": RNG.random((40, 40)) < 0.3}


def masked(mask):
    return Payload({}, {"a.weight": np.where(mask["a.weight"], np.float32(1 / 3), np.float32(0))}, mask)


def test_the_tasks_own_mask_stays_at_home():
    blob = encode_result(masked(MASK), Payload(mask=MASK), WireSettings(), None)
    with pytest.raises(UnknownMask):
        decode(blob)
    assert np.array_equal(decode(blob, held=lambda digest: MASK).mask["a.weight"], MASK["a.weight"])


@pytest.mark.parametrize("sent", [OTHER, {}])
def test_a_mask_that_the_coordinator_has_not_travels(sent):
    decoded = decode(encode_result(masked(MASK), Payload(mask=sent), WireSettings(), None))
    assert np.array_equal(decoded.mask["a.weight"], MASK["a.weight"])


def test_a_dense_result_of_a_dense_task():
    result = Payload({}, {"a.weight": np.ones((2, 2), np.float32)})
    assert decode(encode_result(result, Payload(), WireSettings(), None)).mask == {}


def test_the_methods_precision_goes_before_the_runs():
    result, wire = masked(MASK), WireSettings(precision="fp32", compress=False)
    assert encode_result(result, Payload(), wire, None) == encode(result, precision="fp32", compress=False)
    assert encode_result(result, Payload(), wire, "int8") == encode(result, precision="int8", compress=False)
