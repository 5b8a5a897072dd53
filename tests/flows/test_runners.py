"""The settings say which workers do the shards."""

import subprocess
import sys

from prefect.task_runners import ThreadPoolTaskRunner

from diffgraph.settings import Settings
from flows.runners import runner_for


def runner(**settings):
    return runner_for(Settings(**settings))


def test_one_thread_of_this_process_unless_asked_otherwise():
    assert isinstance(runner(), ThreadPoolTaskRunner)
    assert isinstance(runner(gpus=(0,)), ThreadPoolTaskRunner)


def test_several_gpus_get_a_worker_each_that_sees_only_its_own():
    workers = runner(gpus=(0, 3)).cluster_kwargs["workers"]
    seen = {gpu: worker["options"]["env"] for gpu, worker in workers.items()}
    assert seen == {0: {"CUDA_VISIBLE_DEVICES": "0"}, 3: {"CUDA_VISIBLE_DEVICES": "3"}}


def test_a_local_cluster_by_its_workers():
    assert runner(workers=3).cluster_kwargs["n_workers"] == 3
    assert runner(scheduler="local").cluster_kwargs["n_workers"] == 1


def test_a_running_scheduler_is_used_and_wins():
    chosen = runner(scheduler="tcp://10.0.0.1:8786", gpus=(0, 1), workers=4)
    assert chosen.address == "tcp://10.0.0.1:8786"


def test_workers_that_start_slowly_are_waited_for(tmp_path, monkeypatch):
    """What Dask reads when a command of ours starts it is our patience and not its own."""
    script = (
        "from pathlib import Path; import sys; from flows.server import configure\n"
        "configure(Path(sys.argv[1]))\n"
        "import dask, distributed\n"
        "print(dask.config.get('distributed.comm.timeouts.connect'))\n"
    )
    monkeypatch.delenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT")
    told = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True
    ).stdout
    assert told.strip() == "300s"
