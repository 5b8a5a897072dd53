"""Does a test leave the process as it found it? What it changes for all would change the next one.

Everything is compared around a whole test, its set-up and its fixtures of any scope included: who
needs an environment for longer than a test gives it to each test. A test that leaves something
behind fails, and it is put back, so that nobody else fails for it.
"""

import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

OURS = ("diffgraph", "tasks", "flows")
BY_PYTEST = {"PYTEST_CURRENT_TEST"}
LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)
ABSENT = object()
PREFECT = "prefect.context"
PREFECT_LOGGING = "prefect.main"
"""What sets up logging when it is imported, once and for good."""


class Kept(NamedTuple):
    """One thing that all tests share: how it is read, and how it is put back."""

    read: Callable[[], Any]
    put_back: Callable[[Any], Any]
    tell: Callable[[Any, Any], str] = lambda found, left: f"{found!r} is now {left!r}"
    always: bool = False  # put back whether or not it differs


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in BY_PYTEST}


def _restore_environment(found: dict[str, str]) -> None:
    for name in _environment().keys() - found.keys():
        del os.environ[name]
    os.environ.update(found)


def _names_that_differ(found: dict[Any, Any], left: dict[Any, Any]) -> str:
    names = found.keys() | left.keys()
    return ", ".join(
        sorted(str(name) for name in names if found.get(name, ABSENT) != left.get(name, ABSENT))
    )


def _signals() -> dict[signal.Signals, Any]:
    return {one: signal.getsignal(one) for one in (signal.Signals(n) for n in _CATCHABLE)}


_CATCHABLE = sorted(signal.valid_signals() & set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP})


def _restore_signals(found: dict[signal.Signals, Any]) -> None:
    for one, handler in found.items():
        if signal.getsignal(one) is not handler:
            signal.signal(one, handler)


def _logging() -> dict[str, Any]:
    """Return the handlers and levels of the root's logger and of ours."""
    loggers = {str(name): logging.getLogger(name) for name in (None, *OURS)}
    return {
        name: (list(one.handlers), one.level, one.propagate, one.disabled)
        for name, one in loggers.items()
    } | {"all": logging.root.manager.disable}


def _restore_logging(found: dict[str, Any]) -> None:
    for name in (None, *OURS):
        one = logging.getLogger(name)
        one.handlers[:], one.level, one.propagate, one.disabled = found[str(name)]
    logging.disable(found["all"])  # forgets the levels that loggers have worked out, too


def _torch() -> dict[str, Any]:
    import torch

    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def _restore_torch(found: dict[str, Any]) -> None:
    import torch

    torch.set_default_dtype(found["dtype"])
    if torch.get_default_device() != found["device"]:
        torch.set_default_device(found["device"])
    torch.set_num_threads(found["threads"])
    torch.set_grad_enabled(found["gradients"])
    torch.use_deterministic_algorithms(found["deterministic"])


@dataclass(frozen=True)
class Drawn:
    """Where torch's generator is: to draw from it is anybody's right, to seed it is nobody's."""

    seed: int
    state: Any = field(compare=False)


def _drawn() -> Drawn:
    import torch

    return Drawn(torch.initial_seed(), torch.get_rng_state())


def _restore_drawn(found: Drawn) -> None:
    import torch

    torch.set_rng_state(found.state)


def _prefect() -> Any:
    return sys.modules[PREFECT].GLOBAL_SETTINGS_CONTEXT


def _restore_prefect(found: Any) -> None:
    sys.modules[PREFECT].GLOBAL_SETTINGS_CONTEXT = found


def _exactly(variable: list[str]) -> Callable[[list[str]], None]:
    def put_back(found: list[str]) -> None:
        variable[:] = found

    return put_back


ALWAYS = {
    "os.environ": Kept(_environment, _restore_environment, _names_that_differ),
    "the working directory": Kept(os.getcwd, os.chdir),
    "sys.path": Kept(lambda: list(sys.path), _exactly(sys.path)),
    "sys.argv": Kept(lambda: list(sys.argv), lambda found: setattr(sys, "argv", found)),
    "signal handlers": Kept(_signals, _restore_signals, _names_that_differ),
    "logging": Kept(_logging, _restore_logging, _names_that_differ),
    "limits": Kept(
        lambda: {limit: resource.getrlimit(limit) for limit in LIMITS},
        lambda found: [resource.setrlimit(limit, both) for limit, both in found.items()],
    ),
}
ONCE_IMPORTED = {
    "torch": Kept(_torch, _restore_torch, _names_that_differ),
    "torch.random": Kept(_drawn, _restore_drawn, lambda *_: "somebody seeded it", always=True),
    PREFECT: Kept(_prefect, _restore_prefect, lambda found, left: "Prefect's settings are others"),
}
FOUND = pytest.StashKey[dict[str, Any]]()


def _all() -> dict[str, Kept]:
    return ALWAYS | {name: kept for name, kept in ONCE_IMPORTED.items() if name in sys.modules}


def look() -> dict[str, Any]:
    """Return how everything is that tests share; what is not imported yet is not there."""
    return {name: kept.read() for name, kept in _all().items()} | {
        PREFECT_LOGGING: PREFECT_LOGGING in sys.modules
    }


def put_back(found: dict[str, Any]) -> list[str]:
    """Put back what is not as it was found; return what that was."""
    told = []
    found = dict(found)
    if (PREFECT_LOGGING in sys.modules) != found.pop(PREFECT_LOGGING):
        del found["logging"]
    if PREFECT in sys.modules and PREFECT not in found:
        sys.modules[PREFECT].refresh_global_settings_context()
    for name, kept in _all().items():
        if name not in found:
            continue
        left = kept.read()
        if found[name] != left:
            told.append(f"{name}: {kept.tell(found[name], left)}")
        if found[name] != left or kept.always:
            kept.put_back(found[name])
    return told


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    item.stash[FOUND] = look()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    try:
        return (yield)
    finally:
        left = put_back(item.stash[FOUND])
        if left:
            pytest.fail("this test leaves behind: " + "; ".join(left), pytrace=False)
