"""What may be in force."""

import pytest

from diffgraph.errors import MissingInput
from diffgraph.homes import family_folder
from tasks.training import promote


def test_only_a_whole_planner_can_be_promoted(tmp_path):
    own = family_folder(tmp_path, "emoji64")
    half = own / "planners" / "half"
    half.mkdir(parents=True)
    (half / "config.json").write_text("{}")
    for name in ("half", "absent"):
        with pytest.raises(MissingInput):
            promote.fn(tmp_path, "emoji64", name)
    assert not (own / "champion").exists()
