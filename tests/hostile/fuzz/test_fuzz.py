"""Every kind of hostile input, a few seconds of each: `make fuzz` goes on for an hour."""

import pytest

from tests.hostile.fuzz.properties import PROPERTIES
from tests.hostile.fuzz.running import try_examples


@pytest.mark.parametrize("name", PROPERTIES)
def test_whatever_comes_is_read_right_or_refused(name: str) -> None:
    try_examples(PROPERTIES[name], PROPERTIES[name].examples)
