"""From a person's folder of LoRAs to a plan, by the commands alone."""

import json

import pytest

from tests.flows.cli.test_folder_of_files import TRAINED, as_trained

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_two_folders_are_found_measured_and_chosen_among(diffgraph, tmp_path):
    home = ("--home", tmp_path / "home")
    folders = []
    for name in TRAINED:
        folders += ["--path", as_trained(name, tmp_path / f"of_{name}").parent]
    told = diffgraph("discover", "--source", "folder", *folders, *home)
    assert told.code == 0, told.err
    assert told.out.startswith("of_blueprint, of_pencil: 2 new")
    assert "`diffgraph build` measures what is new" in told.out
    again = diffgraph("discover", *folders, *home, "--json").json
    assert (again["new"], again["unchanged"], again["ready"]) == ([], 2, 2)

    (tmp_path / "config.toml").write_text("[calibration]\nprompts = 2\n")
    built = diffgraph("build", *home, "--config", tmp_path / "config.toml")
    assert built.code == 0, built.err
    told = diffgraph("plan", "a cat, pencil sketch", *home, "--json")
    assert told.code == 0, told.err
    assert "of_pencil:pencil@" in json.dumps(told.json)
