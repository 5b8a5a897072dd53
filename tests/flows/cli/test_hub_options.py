"""What `discover` and `refresh` cannot be told is refused before anything starts."""

import pytest

TOKEN = "a-secret-token"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--url", "http://127.0.0.1:1"], "--source"),
        (["--source", "civitai", "--path", "."], "--url"),
        (["--source", "civitai", "--url", "ftp://x"], "https://host"),
        (["--source", "civitai", "--url", f"http://me:{TOKEN}@host"], "use a token"),
        (["--source", "huggingface"], "emoji64 has no base model on Hugging Face"),
        (["--source", "civitai", "--online"], "--online is for folders of weights files"),
    ],
)
def test_what_discover_cannot_be_told_is_one_line(diffgraph, tmp_path, arguments, says):
    told = diffgraph("discover", *arguments, "--home", tmp_path / "home")
    assert told.code == 1
    assert told.out == ""
    (line,) = told.err.strip().splitlines()
    assert says in line
    assert TOKEN not in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--url", "http://127.0.0.1:1"], "--source"),
        (["--source", "civitai", "--path", "."], "--url"),
        (["--source", "huggingface"], "emoji64 has no base model on Hugging Face"),
        (["--like", "0000"], "no planner '0000' of emoji64"),
    ],
)
def test_what_refresh_cannot_be_told_is_one_line(diffgraph, tmp_path, arguments, says):
    told = diffgraph("refresh", *arguments, "--home", tmp_path / "home")
    assert told.code == 1
    assert told.out == ""
    (line,) = told.err.strip().splitlines()
    assert says in line
    assert not (tmp_path / "home").exists()
