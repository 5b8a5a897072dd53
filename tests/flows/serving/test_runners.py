"""The settings say which workers do the shards; those that we start obey nobody else."""

import socket
import subprocess
import sys

import pytest
from distributed import LocalCluster
from prefect.task_runners import ThreadPoolTaskRunner

import flows.serving.runners
from diffgraph.settings import Settings
from flows.serving.runners import OneThread, dask_runner, one_worker_a_gpu, runner_for


def runner(**settings):
    return runner_for(Settings(**settings))


def test_one_thread_of_this_process_unless_asked_otherwise():
    assert isinstance(runner(), ThreadPoolTaskRunner)
    assert isinstance(runner(gpus=(0,)), ThreadPoolTaskRunner)
    assert isinstance(runner().duplicate(), OneThread)


def test_several_gpus_get_a_worker_each_that_sees_only_its_own():
    chosen = runner(gpus=(0, 3))
    assert chosen.cluster_class is one_worker_a_gpu
    assert chosen.cluster_kwargs == {"gpus": (0, 3)}


def test_a_local_cluster_by_its_workers():
    assert runner(workers=3).cluster_kwargs["n_workers"] == 3
    assert runner(scheduler="local").cluster_kwargs["n_workers"] == 1


def test_a_running_scheduler_is_used_and_wins():
    chosen = runner(scheduler="tcp://10.0.0.1:8786", gpus=(0, 1), workers=4)
    assert chosen.address == "tcp://10.0.0.1:8786"


def test_a_scheduler_that_should_be_running_is_waited_for_half_a_minute(monkeypatch):
    assert runner(scheduler="tcp://10.0.0.1:8786").client_kwargs == {
        "timeout": "30s",
        "set_as_default": False,
    }
    monkeypatch.setattr(flows.serving.runners, "PATIENCE", "100ms")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        address = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
        with runner(scheduler=address) as chosen, pytest.raises(OSError, match=r"after 0\.1 s"):
            assert chosen.client


def seen(dask_worker) -> tuple[str, list[str]]:
    """Return the GPU that a worker sees, and the places where it listens."""
    import os

    import psutil

    listening = [one for one in psutil.Process().net_connections() if one.status == "LISTEN"]
    return os.environ["CUDA_VISIBLE_DEVICES"], [one.laddr.ip for one in listening]


def test_a_cluster_of_ours_is_locked():
    kwargs = runner(workers=2).cluster_kwargs
    assert kwargs["security"] is True
    assert kwargs["host"] == "127.0.0.1"


def test_workers_of_ours_take_code_from_nobody_else(our_environment):
    """Whoever may open a connection to this machine can reach a worker's port."""
    from distributed import Client
    from distributed.security import Security

    with runner(gpus=(0, 3)) as chosen:
        client = chosen.client
        client.wait_for_workers(2)
        found = client.run(seen).values()
        assert {gpu for gpu, _ in found} == {"0", "3"}
        assert {ip for _, ips in found for ip in ips} == {"127.0.0.1"}
        workers = client.scheduler_info()["workers"]
        nannies = [worker["nanny"] for worker in workers.values()]
        scheduler = client.scheduler.address
        for address in (scheduler, *workers, *nannies):
            assert address.startswith("tls://127.0.0.1:")
        plain = scheduler.replace("tls:", "tcp:")
        for address, security in ((plain, None), (scheduler, Security.temporary())):
            with pytest.raises(OSError, match=r"127\.0\.0\.1|certificate"):
                Client(address, security=security, timeout=1)


class NeverClosed(LocalCluster):
    """A cluster whose workers do not stop in time, as on a machine that has much to do."""

    def close(self, timeout=None):
        super().close(timeout)
        raise TimeoutError


def end_run(error: Exception | None = None) -> None:
    """Be a run whose workers do not stop in time."""
    kwargs = {**runner(workers=2).cluster_kwargs, "n_workers": 0}
    with dask_runner(cluster_class=NeverClosed, cluster_kwargs=kwargs) as chosen:
        assert chosen.client.scheduler_info()["workers"] == {}
        if error is not None:
            raise error


def test_workers_that_stop_slowly_take_nothing_from_a_run(our_environment, caplog):
    end_run()
    assert "did not stop in time" in caplog.text


def test_a_run_that_failed_keeps_its_own_error(our_environment):
    with pytest.raises(TimeoutError, match="of the run"):
        end_run(TimeoutError("of the run"))


def test_workers_that_start_slowly_are_waited_for(tmp_path, monkeypatch):
    """What Dask reads when a command of ours starts it is our patience and not its own."""
    script = (
        "from pathlib import Path; import sys; from flows.serving.server import configure\n"
        "configure(Path(sys.argv[1]))\n"
        "import dask, distributed\n"
        "print(dask.config.get('distributed.comm.timeouts.connect'))\n"
    )
    monkeypatch.delenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT")
    told = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True
    ).stdout
    assert told.strip() == "300s"
