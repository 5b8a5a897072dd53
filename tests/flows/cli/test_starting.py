"""A verb begins only where what it keeps will lie in its home."""

import pytest

from diffgraph.errors import InputError
from diffgraph.settings import Settings
from flows.cli.starting import pipeline


@pytest.mark.parametrize("name", ["what?", "no. #1", "100%"])
def test_a_home_whose_databases_would_lie_elsewhere_is_refused(tmp_path, name):
    home = tmp_path / name
    with pytest.raises(InputError, match="in its name"), pipeline(Settings(home=home)):
        pass
    assert not list(tmp_path.iterdir())


def test_a_link_to_such_a_home_is_refused_too(tmp_path):
    (tmp_path / "what?").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "what?")
    with (
        pytest.raises(InputError, match="in its name"),
        pipeline(Settings(home=tmp_path / "link")),
    ):
        pass
    assert not list((tmp_path / "what?").iterdir())
