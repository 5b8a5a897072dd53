"""Which workers do the shards? A thread of ours, or Dask: local, one a GPU, or a cluster's."""

from typing import Any

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from diffgraph.settings import Settings

PRELOAD = ["flows.working_folder"]
"""What a worker of ours runs before anything else."""


def runner_for(settings: Settings) -> TaskRunner[Any]:
    """Return the task runner that the settings ask for.

    One thread is enough in this process: the model it shares is busy with one shard at a time,
    and torch uses the cores.
    """
    if settings.scheduler and settings.scheduler != "local":
        return _dask(address=settings.scheduler)
    if len(settings.gpus) > 1:
        return _dask(
            cluster_class="distributed.SpecCluster", cluster_kwargs=_one_worker_a_gpu(settings)
        )
    if settings.scheduler == "local" or settings.workers > 1:
        return _dask(
            cluster_class="distributed.LocalCluster",
            cluster_kwargs={
                "n_workers": settings.workers,
                "threads_per_worker": 1,
                "dashboard_address": None,
                "host": "127.0.0.1",
                "preload": PRELOAD,
            },
        )
    return ThreadPoolTaskRunner(max_workers=1)


def _dask(**options: Any) -> TaskRunner[Any]:
    from prefect_dask import DaskTaskRunner

    runner: TaskRunner[Any] = DaskTaskRunner(**options)
    return runner


def _one_worker_a_gpu(settings: Settings) -> dict[str, Any]:
    """Return a cluster of one single-threaded worker a GPU, each seeing its own GPU only."""
    from distributed import Nanny, Scheduler

    workers = {
        gpu: {
            "cls": Nanny,
            "options": {
                "nthreads": 1,
                "env": {"CUDA_VISIBLE_DEVICES": str(gpu)},
                "preload": PRELOAD,
            },
        }
        for gpu in settings.gpus
    }
    scheduler = {"cls": Scheduler, "options": {"dashboard_address": None, "host": "127.0.0.1"}}
    return {"workers": workers, "scheduler": scheduler}
