"""Every code of trading is produced, by the smallest input that deserves it, and changes nothing.

The cases stand in tables by code; a code of these groups without a case fails the test.
"""

from __future__ import annotations

import bad_input_orders
import bad_input_requests
import pytest
from bad_input_world import CASES

from protocol.errors import Code

TABLES = (bad_input_requests, bad_input_orders)
NOT_OF_THE_ENGINE = {
    Code.SESSION_NOT_PROVEN: "sequencers answer it before anything is ordered",
    Code.WRONG_SHARD: "no message is addressed to a shard yet",
}
GROUPS = [code for code in Code if 200 <= code < 600 and code not in NOT_OF_THE_ENGINE]


@pytest.mark.parametrize("code", GROUPS, ids=lambda code: code.label)
def test_the_code_is_produced(code: Code) -> None:
    assert CASES.get(code), f"no case produces {code.label}"
    for function in CASES[code]:
        assert function() == code, function.__name__


def test_what_is_left_out_is_left_out_for_a_reason() -> None:
    assert not set(NOT_OF_THE_ENGINE) & set(CASES)
    assert set(CASES) <= set(GROUPS)
    assert sum(len(cases) for cases in CASES.values()) > len(GROUPS)
