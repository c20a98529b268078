import base64
import math
import struct

from berth.sim.pooling import as_base64, unit_vector


def test_same_tokens_give_the_same_unit_vector() -> None:
    vector = unit_vector((1, 2, 3), 256)
    assert vector == unit_vector((1, 2, 3), 256)
    assert vector != unit_vector((3, 2, 1), 256)
    assert math.isclose(math.hypot(*vector), 1.0, abs_tol=1e-5)


def test_base64_form_has_the_same_values() -> None:
    vector = unit_vector((), 8)
    assert list(struct.unpack("<8f", base64.b64decode(as_base64(vector)))) == vector
