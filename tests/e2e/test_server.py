"""A server of our own comes and goes with the block that needs it."""

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from diffgraph.errors import ServiceUnavailable, StorageError
from flows.serving import server
from tests.waiting import PATIENCE, wait_for

ROOT = Path(__file__).parent.parent.parent

HOLD = """
import sys
from pathlib import Path
from flows.serving.server import prefect_api
with prefect_api(Path(sys.argv[1])) as address:
    print(address, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def without_prefect(our_environment, monkeypatch):
    for name in list(os.environ):
        if name.startswith("PREFECT_"):
            monkeypatch.delenv(name)


def servers_for(home: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if "flows.serving.server" in process.cmdline() and (
                process.environ().get("PREFECT_HOME") == str(home / "prefect")
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def wait_for_none(home: Path) -> None:
    wait_for(lambda: not servers_for(home))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_server_is_left_however_the_command_ends(without_prefect, tmp_path, how):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    try:
        address = holder.stdout.readline().strip()
        with urllib.request.urlopen(f"{address}/health", timeout=PATIENCE) as reply:
            assert reply.status == 200
        assert len(servers_for(tmp_path)) == 1
        holder.send_signal(how)
        holder.wait(PATIENCE)
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
    wait_for_none(tmp_path)


def test_a_home_that_is_a_file_is_told_at_once(without_prefect, tmp_path):
    home = tmp_path / "home"
    home.write_text("not a folder")
    with pytest.raises(StorageError, match="home"), server.prefect_api(home):
        pass


def test_a_server_that_cannot_start_is_told_with_its_log(without_prefect, monkeypatch, tmp_path):
    monkeypatch.setattr(server, "_free_port", lambda: -1)
    with pytest.raises(ServiceUnavailable, match=r"server\.log"), server.prefect_api(tmp_path):
        pass


def test_a_server_with_damaged_records_begins_new_ones(without_prefect, tmp_path):
    records = tmp_path / "prefect" / "prefect.db"
    records.parent.mkdir()
    records.write_text("not a database" * 100)
    with server.prefect_api(tmp_path) as address:
        with urllib.request.urlopen(f"{address}/health", timeout=PATIENCE) as reply:
            assert reply.status == 200
    assert records.with_name("prefect.db.damaged").read_text().startswith("not a database")
    wait_for_none(tmp_path)


def test_a_disk_without_room_is_told_as_such(without_prefect, monkeypatch, tmp_path):
    """What a server says when it cannot map its records is a line in a file that nobody reads."""
    monkeypatch.setattr(server, "_free_port", lambda: -1)  # it ends at once
    monkeypatch.setattr(server, "ROOM", 1 << 60)
    with pytest.raises(StorageError, match="the disk is full"), server.prefect_api(tmp_path):
        pass


def test_a_server_that_is_there_is_used(prefect_server, tmp_path):
    with server.prefect_api(tmp_path) as address:
        assert address == prefect_server
