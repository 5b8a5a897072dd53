"""A command that is stopped in the middle of a shard ends there, and says so; it goes on later."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.serving.alive import mark_the_dead
from tests.waiting import PATIENCE, wait_for

ROOT = Path(__file__).parent.parent.parent
COMMAND = Path(sys.executable).with_name("diffgraph")
ENDLESS = "[training]\nprompts = 16\n[sampler]\nsteps = 1000\n"
"""An image of so many steps, and a shard of some dozens of them, is not finished in a test."""

pytestmark = pytest.mark.usefixtures("prefect_server")


# a shard that never ends by itself
SHARDS = """
import sys, threading
import typer
from flows.serving.runners import OneThread
from flows.cli.starting import pipeline, settings_of
from flows.serving.watched import flow
from tasks.policies import LOCAL, task
from diffgraph.progress import go_on, report

@task(**LOCAL)
def shard():
    report("shard", 0)
    while True:
        threading.Event().wait(0.01)
        go_on()

@flow(name="stopped", task_runner=OneThread(max_workers=1))
def run():
    shard.submit().result()

try:
    with pipeline(settings_of()):
        run()
except typer.Exit as ended:
    sys.exit(ended.exit_code)
"""


@contextmanager
def process_of(command: list[object]) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Yield a process, and the lines that it says on standard error."""
    process = subprocess.Popen(
        command,
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # nohup ignores it
    )  # fmt: skip
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(process.stderr))
    reader.start()
    try:
        yield process, said
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stderr.close()


def wait_until_said(process: subprocess.Popen[str], said: list[str], text: str) -> None:
    wait_for(lambda: any(text in line for line in said) or process.poll() is not None)
    assert any(text in line for line in said), said


def test_a_training_stops_within_a_shard(home):
    (home / "config.toml").write_text(ENDLESS)
    train = [COMMAND, "train", "--home", home, "--config", home / "config.toml"]
    with process_of(train) as (process, said):
        wait_until_said(process, said, "the untrained planner first")
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 143
    assert "stopping: what is at work ends at its next step" in "".join(said)
    assert "stopped; the same command goes on from here" in said[-1]
    assert "Traceback" not in "".join(said)


def test_the_end_of_a_terminal_stops_a_run_in_good_order(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFGRAPH_HOME", str(tmp_path))
    with process_of([sys.executable, "-c", SHARDS]) as (process, said):
        wait_until_said(process, said, "shard: 0")
        process.send_signal(signal.SIGHUP)
    assert process.returncode == 129
    assert "stopped; the same command goes on from here" in "".join(said)


def test_who_loses_patience_twice_leaves_nothing_at_work(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFGRAPH_HOME", str(tmp_path))
    with process_of([sys.executable, "-c", SHARDS]) as (process, said):
        wait_until_said(process, said, "shard: 0")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
    assert process.returncode not in (0, None)
    mark_the_dead()  # whatever it could not say itself, it is not at work any more
    assert not list((tmp_path / "prefect" / "alive").iterdir())
