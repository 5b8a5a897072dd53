"""A small hub, a Prefect server for the session, and a home that is built once."""

import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.environment import environment

LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
EFFECTS = {
    9001: ("Silver Pencil", "A pencil sketch on white paper.", "pencil sketch"),
    9002: ("Moonshine", "Turns every scene into night, with a moon.", "at night"),
    9003: ("Warm Sepia", "Sepia tones, like an old photograph.", "sepia"),
}
CHECKPOINT = 9010
NAN, TRUNCATED, PICKLE = 9020, 9021, 9022

# A runner in the background ignores Ctrl-C, and so would the commands that are tested for it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Told(NamedTuple):
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def our_environment() -> Iterator[None]:
    """Undo what a command does to this process: its environment, its logging."""
    rooms = [logging.getLogger(name) for name in ("diffgraph", "tasks", "flows")]
    handlers = [list(room.handlers) for room in rooms]
    with environment():
        yield
    for room, found in zip(rooms, handlers, strict=True):
        room.handlers[:] = found


@pytest.fixture
def diffgraph(our_environment, capsys, monkeypatch) -> Callable[..., Told]:
    """Run the command in this process."""
    from flows.cli import main

    def run(*arguments: object) -> Told:
        monkeypatch.setattr(sys, "argv", ["diffgraph", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        told = capsys.readouterr()
        return Told(code, told.out, told.err)

    return run


def page(hub: Path, number: int, name: str, text: str, words: str, **changes) -> None:
    """Write a page of a hub with one version."""
    version = {
        "id": number * 10 + 1,
        "name": "v1",
        "baseModel": "emoji64",
        "publishedAt": "2025-01-01T00:00:00Z",
        "trainedWords": [words],
        "files": [{"downloadUrl": f"files/{number}.safetensors", "sizeKB": 64}],
        "images": [{"url": "", "meta": {"prompt": f"a cat, {words}"}}],
    } | changes.pop("version", {})
    content = {
        "id": number,
        "name": name,
        "description": f"<p>{text} Best at 0.9.</p>",
        "type": "LORA",
        "modelVersions": [version],
    } | changes
    (hub / "models" / f"{number}.json").write_text(json.dumps(content))


@pytest.fixture
def write_page() -> Callable[..., None]:
    return page


def write_hub(hub: Path) -> Path:
    """Write a hub of four usable experts, three unusable ones and a broken page."""
    from safetensors.torch import save_file

    from diffgraph.families import get_family
    from diffgraph.recipe.unusable import lora

    for name in ("models", "files"):
        (hub / name).mkdir(parents=True)
    (hub / "hub.json").write_text('{"name": "smallhub"}')
    for strength, (number, (name, text, words)) in enumerate(EFFECTS.items(), 1):
        page(hub, number, name, text, words)
        (hub / "files" / f"{number}.safetensors").write_bytes(lora(strength / 50))
    layer = get_family("emoji64").load("cpu").parameters()[LAYER]
    save_file({LAYER: layer + 0.01}, hub / "files" / f"{CHECKPOINT}.safetensors")
    page(hub, CHECKPOINT, "Animal Park", "Cats, dogs and robots.", "robot", type="Checkpoint")
    page(hub, NAN, "Not a number", "Broken.", "nan")
    (hub / "files" / f"{NAN}.safetensors").write_bytes(lora(float("nan")))
    page(hub, TRUNCATED, "Half a file", "Broken.", "half")
    (hub / "files" / f"{TRUNCATED}.safetensors").write_bytes(lora(0.5)[:-100])
    pickle = {"files": [{"downloadUrl": "files/x.pt", "metadata": {"format": "PickleTensor"}}]}
    page(hub, PICKLE, "Pickled", "Unsafe.", "pickle", version=pickle)
    (hub / "models" / "9999.json").write_text("{ half a page")
    return hub


@pytest.fixture(scope="session")
def hub(tmp_path_factory) -> Path:
    return write_hub(tmp_path_factory.mktemp("hub") / "smallhub")


@pytest.fixture(scope="session")
def server_address(tmp_path_factory) -> Iterator[str]:
    """A real server for the session. Nobody reports to it who does not ask for it."""
    from flows.server import lean_server

    with lean_server(tmp_path_factory.mktemp("prefect")) as address:
        yield address


@pytest.fixture
def prefect_server(server_address, our_environment) -> Iterator[str]:
    """The commands and flows of this test report to the session's server."""
    with environment(PREFECT_API_URL=server_address):
        yield server_address


@pytest.fixture(scope="session")
def built_home(server_address, hub, tmp_path_factory) -> Path:
    """A home with the small hub's experts, and a graph of them on two reference prompts."""
    from flows.build_graph import build
    from flows.discover import discover

    home = tmp_path_factory.mktemp("home")
    with environment(PREFECT_API_URL=server_address, DIFFGRAPH_HOME=home):
        discover(path=hub)
        build(reference_prompts=2)
    return home


@pytest.fixture
def home(built_home, tmp_path, monkeypatch) -> Path:
    """A copy of that home, to do anything with."""
    import shutil

    copy = tmp_path / "home"
    shutil.copytree(built_home, copy)
    monkeypatch.setenv("DIFFGRAPH_HOME", str(copy))
    return copy
