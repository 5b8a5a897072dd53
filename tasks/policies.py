"""When is a task tried again? Only when another machine failed us and may recover.

Results are not cached here: finished work is a file named by its content, and every task looks for
its file first. So a retry, a second run, or a worker that died costs only what was not finished.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import prefect
from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from diffgraph.errors import ServiceUnavailable
from diffgraph.printable import mask_error, printable

P = ParamSpec("P")
R = TypeVar("R")

LONGEST_NAME = 80
Given = Mapping[str, Any]
"""What a task is called with, by name."""


def task(**policy: Any) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a Prefect task that tells no secret when it fails; the policy is one of those below."""

    def make(function: Callable[P, R]) -> Task[P, R]:
        return prefect.task(**policy)(telling_no_secret(function))

    return make


def telling_no_secret(function: Callable[P, R]) -> Callable[P, R]:
    """Mask what a function's failure says: Prefect keeps it for ever."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            masked = mask_error(error)
            if masked is error:
                raise
            raise masked from None

    return run


def named(words: Callable[[Given], str]) -> Any:
    """Return what names a task's runs in a list: short, whatever the task is called with."""

    def name(parameters: dict[str, Any]) -> str:
        text = printable(words(parameters))
        return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"

    return name


async def is_worth_another_try(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Return whether the failure was another machine's, and may pass."""
    return isinstance(await state.aresult(raise_on_failure=False), ServiceUnavailable)


LOCAL: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}
"""Work on this machine: what failed once would fail again."""

NETWORK: dict[str, Any] = {
    **LOCAL,
    "retries": 5,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_worth_another_try,
}
"""Work that asks another machine."""

RECORD: dict[str, Any] = {**NETWORK, "retries": 1}
"""A record: it is kept in a file until it is taken, so that no run waits long."""

CRAWL: dict[str, Any] = {**NETWORK, "retries": 1}
"""A crawl: every request was tried patiently by its client, and what was read is kept."""
