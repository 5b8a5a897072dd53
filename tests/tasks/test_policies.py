"""Only what may pass is tried again."""

import asyncio
import inspect

import pytest
from prefect.states import Completed, Failed

from diffgraph import errors
from diffgraph.secrets import keep_secret
from tasks.policies import CRAWL, LOCAL, NETWORK, is_worth_another_try, task


def verdict(error: BaseException) -> bool:
    return asyncio.run(is_worth_another_try(None, None, Failed(data=error)))


def all_errors() -> list[type[errors.DiffgraphError]]:
    return [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.DiffgraphError)
    ]


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_of_our_errors_only_an_unavailable_service_is_worth_another_try(kind):
    assert verdict(kind("…")) == issubclass(kind, errors.ServiceUnavailable)


@pytest.mark.parametrize("bug", [ValueError("bug"), KeyError("bug"), MemoryError()])
def test_a_bug_is_not_worth_another_try(bug):
    assert not verdict(bug)


def test_success_is_not_worth_another_try():
    assert not asyncio.run(is_worth_another_try(None, None, Completed(data=1)))


def test_no_result_is_cached_by_the_orchestrator():
    from prefect.cache_policies import NO_CACHE

    for policy in (LOCAL, NETWORK, CRAWL):
        assert policy["cache_policy"] is NO_CACHE
        assert policy["persist_result"] is False


def test_local_work_is_never_tried_again():
    assert "retries" not in LOCAL


def test_every_task_has_a_policy():
    """A task without one would be cached by Prefect, or tried again for our own mistakes."""
    import importlib
    import pkgutil

    from prefect import Task
    from prefect.cache_policies import NO_CACHE

    import tasks

    found = []
    for module in pkgutil.walk_packages(tasks.__path__, "tasks."):
        if module.name == "tasks.tracking.planner_model":
            continue  # MLflow's own
        found += [
            value
            for value in vars(importlib.import_module(module.name)).values()
            if isinstance(value, Task)
        ]
    assert found
    for one in found:
        assert one.cache_policy is NO_CACHE, one.name
        assert not one.retries or one.retry_condition_fn is is_worth_another_try, one.name


class TestWhatPrefectKeepsOfAFailure:
    SECRET = "a-secret-token"

    @pytest.fixture(autouse=True)
    def _kept(self):
        keep_secret(self.SECRET)

    def failing(self, error):
        @task(**LOCAL)
        def fail(where: str) -> None:
            """Fail."""
            raise error

        return fail

    @pytest.mark.parametrize(
        "error", [ValueError(SECRET), OSError(5, SECRET), errors.ServiceRefused(SECRET)]
    )
    def test_holds_no_secret(self, error):
        with pytest.raises(Exception, match=r"\*\*\*") as failed:
            self.failing(error).fn("x")
        assert self.SECRET not in str(failed.value)

    def test_holds_no_secret_that_an_error_builds_of_a_value(self):
        from pydantic import TypeAdapter, ValidationError

        with pytest.raises(ValidationError) as wrong:
            TypeAdapter(int).validate_python(self.SECRET)
        with pytest.raises(RuntimeError, match="ValidationError") as failed:
            self.failing(wrong.value).fn("x")
        assert self.SECRET not in str(failed.value)
        assert failed.value.__suppress_context__

    def test_is_the_error_itself_without_one(self):
        error = KeyError("x")
        with pytest.raises(KeyError) as failed:
            self.failing(error).fn("x")
        assert failed.value is error

    def test_names_the_parameters_of_the_function(self):
        made = self.failing(ValueError())
        assert list(inspect.signature(made.fn).parameters) == ["where"]
        assert made.description == "Fail."


def test_every_task_tells_no_secret_when_it_fails():
    import pathlib
    import re

    import tasks

    files = pathlib.Path(tasks.__file__).parent.rglob("*.py")
    wrong = [f for f in files if re.search(r"from prefect import .*\btask\b", f.read_text())]
    assert wrong == []
