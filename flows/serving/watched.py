"""The decorator of every flow: signs of life, no secrets in its results, one run at a time.

Runs that a worker starts take turns on its machine, whoever started the worker: each may want a
whole GPU. A limit of a work pool would count a run that was killed for ever; the kernel lets go of
its lock.
"""

import functools
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, TypeVar

import prefect
from prefect import Flow
from prefect.context import FlowRunContext

from diffgraph.locks import LOCKS, exclusive
from diffgraph.settings import Settings
from flows.serving.alive import drop_life_sign, hold_life_sign
from tasks.policies import telling_no_secret

P = ParamSpec("P")
R = TypeVar("R")

HOOKS: dict[str, Any] = {
    "on_running": [hold_life_sign],
    "on_completion": [drop_life_sign],
    "on_failure": [drop_life_sign],
    "on_crashed": [drop_life_sign],
    "on_cancellation": [drop_life_sign],
}


def flow(**options: Any) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """Make a Prefect flow that is watched; the options are Prefect's."""

    def make(function: Callable[P, R]) -> Flow[P, R]:
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            with _turn_of_the_deployed():
                return function(*args, **kwargs)

        return prefect.flow(**HOOKS, **options)(telling_no_secret(run))

    return make


def one_at_a_time(work: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Have a flow wait until no process does the same work on the same home."""

    def wrap(flow: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(flow)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            with exclusive(Settings().home / LOCKS, work):
                return flow(*args, **kwargs)

        return wrapped

    return wrap


def _turn_of_the_deployed() -> AbstractContextManager[None]:
    """Return the wait for other runs of workers, if this is one; its flows within need no turn."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.deployment_id is None:
        return nullcontext()
    settings = Settings()
    return exclusive(settings.home / LOCKS / socket.gethostname(), "run", settings.runs_at_once)
