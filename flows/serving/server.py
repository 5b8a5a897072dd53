"""Where do runs report to? A configured Prefect server, or a lean one that lives as long as we do.

Prefect's own ephemeral mode stays off: it loses the last records of a run, and every Dask worker
would start a server of its own.
"""

import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from diffgraph.artifacts import storing
from diffgraph.databases import set_aside_if_damaged
from diffgraph.errors import ServiceUnavailable, StorageError
from diffgraph.permissions import make_folder, opener
from flows.serving.reaching import answering, demand_server

log = logging.getLogger(__name__)

QUIET: Mapping[str, str] = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # our own bars tell how far the work is
    "HF_HUB_OFFLINE": "1",  # what the bundled family needs is on the disk
    "OMP_WAIT_POLICY": "passive",  # spinning threads make two busy processes ten times slower
}
"""What every process of ours runs with, unless the user says otherwise."""

CLIENT: Mapping[str, str] = {
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    # progress bars tell a person what happens, our own words what went wrong; the API gets it all
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "diffgraph,tasks,flows",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # what is said outside of a run
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "300s",  # workers import torch first
}

PATIENT: Mapping[str, str] = {
    # our own server on a machine that has twenty things to do is slow and not broken
    "PREFECT_API_REQUEST_TIMEOUT": "600",
    "PREFECT_SERVER_DATABASE_TIMEOUT": "600",
    "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "600",
}

LEAN: Mapping[str, str] = {
    # events are written in batches: one a transaction makes every flow wait for the one before it
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "100",
    # there are no schedules and no web page on a server that lives as long as one command
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_FOREMAN_ENABLED": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
}

STARTUP_SECONDS = 600.0
ROOM = 16 << 20
"""Bytes that a server needs for its records."""
SHUTDOWN_SECONDS = 60.0


@contextmanager
def prefect_api(home: Path) -> Iterator[str]:
    """Yield the address of the Prefect API that runs report to.

    `PREFECT_API_URL` wins. Without it a server is started on a free loopback port, with its records
    below `home`, and stopped when the block ends, however it ends.

    Raises:
        ServiceUnavailable: no server answers at `PREFECT_API_URL`, or it stopped answering.
        ServiceRefused: what answers there is no server that takes our runs.
    """
    with storing(home / "prefect"):
        make_folder(home / "prefect")
    configure(home)
    configured = os.environ.get("PREFECT_API_URL")
    if configured:
        demand_server(configured)
        with answering(configured):
            yield configured
        return
    with lean_server(home) as address:
        ours = {
            name: value
            for name, value in {**PATIENT, "PREFECT_API_URL": address}.items()
            if not os.environ.get(name)
        }
        os.environ.update(ours)
        reread_settings()
        try:
            with answering(address):
                yield address
        finally:
            _send_what_is_left()
            for name in ours:
                del os.environ[name]
            reread_settings()


def configure(home: Path) -> None:
    """Set what our processes run with, for this process and those it starts."""
    for name, value in {**QUIET, **CLIENT, "PREFECT_HOME": str(home / "prefect")}.items():
        os.environ.setdefault(name, value)
    reread_settings()


def reread_settings() -> None:
    """Let a Prefect that is imported already see the environment as it is now."""
    if "prefect.context" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


def _send_what_is_left() -> None:
    """Wait until the server has the last logs and events of our runs."""
    if "prefect.context" in sys.modules:
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        APILogWorker.drain_all(timeout=30)
        EventsWorker.drain_all(timeout=30)


@contextmanager
def lean_server(home: Path) -> Iterator[str]:
    """Run a server for the length of the block; yield its API's address.

    Its records are below `home`. This process reports to it only if it is asked to.
    """
    folder = (home / "prefect").absolute()
    with storing(folder):
        make_folder(folder)
        set_aside_if_damaged(folder / "prefect.db")
        record = open(folder / "server.log", "ab", opener=opener)
    port = _free_port()
    address = f"http://127.0.0.1:{port}/api"
    with record:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "flows.serving.server", str(port)],
            cwd=folder,  # where we were started a stranger's settings and code may lie
            umask=0o077,
            stdin=subprocess.PIPE,  # when we are gone, however we went, the server reads its end
            stdout=record,
            stderr=record,
            env={
                **QUIET,
                **CLIENT,
                **PATIENT,
                **os.environ,
                **LEAN,
                "PREFECT_API_URL": address,
                "PREFECT_HOME": str(folder),
                "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder}/prefect.db",
            },
            start_new_session=True,  # Ctrl-C is for us: the server must outlive the last records
        )
    try:
        _wait_until_healthy(address, process, folder / "server.log")
        yield address
    finally:
        _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_healthy(address: str, process: "subprocess.Popen[bytes]", record: Path) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            free = shutil.disk_usage(record.parent).free
            if free < ROOM:
                raise StorageError(
                    f"{record.parent}: the disk is full: {free >> 10} KiB are free, "
                    f"{ROOM >> 20} MiB are needed at least"
                )
            raise ServiceUnavailable(
                f"the Prefect server ended while starting (exit {process.returncode}); see {record}"
            )
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=30) as reply:
                if reply.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise ServiceUnavailable(
        f"the Prefect server did not answer within {STARTUP_SECONDS:.0f} s; see {record}"
    )


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(SHUTDOWN_SECONDS)
    except subprocess.TimeoutExpired:
        log.warning("the Prefect server did not stop within %.0f s", SHUTDOWN_SECONDS)
        process.kill()
        process.wait()


def serve(port: int) -> None:
    """Serve Prefect's API on loopback until standard input ends."""
    import uvicorn
    from prefect.server.api.server import create_app

    server = uvicorn.Server(
        uvicorn.Config(
            create_app(final=True),
            host="127.0.0.1",
            port=port,
            log_level="error",
            timeout_graceful_shutdown=5,
        )
    )

    def stop_with_our_starter() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True

    threading.Thread(target=stop_with_our_starter, daemon=True).start()
    server.run()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
