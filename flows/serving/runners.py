"""Which workers do the shards? A thread of ours, or Dask: local, one a GPU, or a cluster's.

A Dask worker runs whatever code it is sent. Those we start take it over TLS only, with a key of
this run: other users of the machine can reach their ports, and no more.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from prefect import Task
from prefect.futures import as_completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from diffgraph.progress import report, stopping
from diffgraph.settings import Settings

S = TypeVar("S")
T = TypeVar("T")

log = logging.getLogger(__name__)
HERE = "127.0.0.1"
PATIENCE = "30s"
"""For a scheduler that is said to run: ours may start slowly, that one answers or is not there."""
PRELOAD = ["flows.serving.working_folder"]
"""What a worker of ours runs before anything else."""


def runner_for(settings: Settings) -> TaskRunner[Any]:
    """Return the task runner that the settings ask for.

    One thread is enough in this process: the model it shares is busy with one shard at a time,
    and torch uses the cores.
    """
    if settings.scheduler and settings.scheduler != "local":
        return dask_runner(address=settings.scheduler, client_kwargs={"timeout": PATIENCE})
    if len(settings.gpus) > 1:
        return dask_runner(cluster_class=one_worker_a_gpu, cluster_kwargs={"gpus": settings.gpus})
    if settings.scheduler == "local" or settings.workers > 1:
        return dask_runner(
            cluster_class="distributed.LocalCluster",
            cluster_kwargs={
                "n_workers": settings.workers,
                "threads_per_worker": 1,
                "dashboard_address": f"{HERE}:0",
                "worker_dashboard_address": f"{HERE}:0",
                "scheduler_kwargs": {"dashboard": False},
                "host": HERE,
                "security": True,  # TLS with a certificate of its own
                "preload": PRELOAD,
            },
        )
    return OneThread(max_workers=1)


def results_of(
    task: Task[..., T], shards: Sequence[S], stage: str, steps: Callable[[S], int], *given: Any
) -> Iterator[T]:
    """Have a task do all shards; yield what each came to as it ends, and report how far they are.

    Args:
        task: called with a shard and with what is given beside it.
        shards: the work.
        stage: what its steps are of.
        steps: how many a shard is.
        given: to the task.
    """
    at_work = {task.submit(shard, *given): steps(shard) for shard in shards}
    done, total = 0, sum(at_work.values())
    report(stage, 0, total, f"{len(shards)} shards")
    for future in as_completed(list(at_work)):
        yield future.result()
        done += at_work[future]
        report(stage, done, total)


class OneThread(ThreadPoolTaskRunner[Any]):
    """One thread of this process. A run that is stopped waits for a step, not for a shard."""

    def __exit__(self, *failure: Any) -> None:
        if failure[0] is None:
            super().__exit__(*failure)
            return
        log.warning("stopping: what is at work ends at its next step, and what is finished is kept")
        with stopping():
            super().__exit__(*failure)


def dask_runner(**options: Any) -> TaskRunner[Any]:
    """Return Dask's workers. All of a run's results are here before its cluster is closed."""
    from prefect_dask import DaskTaskRunner  # imports all of Dask

    class Dask(DaskTaskRunner):  # type: ignore[misc]  # prefect-dask ships no types
        def __exit__(self, *failure: Any) -> None:
            """Close what was started; a worker that does not stop in time costs a run nothing."""
            try:
                super().__exit__(*failure)
            except Exception as error:  # the run has its results, or an error of its own
                if error is failure[1]:
                    raise
                log.warning("Dask's workers did not stop in time and are killed: %r", error)

    return Dask(**options)


def one_worker_a_gpu(gpus: tuple[int, ...], **options: Any) -> Any:
    """Return a cluster of one single-threaded worker a GPU, each seeing its own GPU only."""
    from distributed import Nanny, Scheduler, SpecCluster
    from distributed.security import Security

    shared = {
        "host": HERE,
        "protocol": "tls://",
        "security": Security.temporary(),
        "dashboard": False,
        "dashboard_address": f"{HERE}:0",  # what is left of it: health and the like
    }
    workers = {
        gpu: {
            "cls": Nanny,
            "options": {
                **shared,
                "nthreads": 1,
                "env": {"CUDA_VISIBLE_DEVICES": str(gpu)},
                "preload": PRELOAD,
            },
        }
        for gpu in gpus
    }
    scheduler = {"cls": Scheduler, "options": shared}
    return SpecCluster(workers=workers, scheduler=scheduler, security=shared["security"], **options)
