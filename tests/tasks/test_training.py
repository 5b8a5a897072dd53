"""What may be in force."""

import pytest

from diffgraph.errors import MissingInput
from diffgraph.session.planners import CHAMPION
from tasks.training import promote


def test_only_a_whole_planner_can_be_promoted(tmp_path):
    half = tmp_path / "planners" / "half"
    half.mkdir(parents=True)
    (half / "config.json").write_text("{}")
    for name in ("half", "absent"):
        with pytest.raises(MissingInput):
            promote.fn(tmp_path, name)
    assert not (tmp_path / "planners" / CHAMPION).exists()
