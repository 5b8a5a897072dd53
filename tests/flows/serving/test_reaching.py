"""What PREFECT_API_URL names is asked at once; whatever is wrong there is one line."""

import time

import pytest

from diffgraph.errors import DiffgraphError, InputError, ServiceRefused, ServiceUnavailable
from flows.serving import reaching, server
from flows.serving.reaching import answering, demand_server
from tests.servers.answering import answering_with

pytestmark = pytest.mark.usefixtures("our_environment")


@pytest.fixture
def asked(monkeypatch):
    """Have an address asked as `PREFECT_API_URL`; return the error."""

    def ask(address: str) -> DiffgraphError:
        monkeypatch.setenv("PREFECT_API_URL", address)
        server.reread_settings()
        started = time.monotonic()
        with pytest.raises(DiffgraphError) as caught:
            demand_server(address)
        assert time.monotonic() - started < reaching.ANSWER_SECONDS
        assert "\n" not in str(caught.value)
        return caught.value

    return ask


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        (503, b"", ServiceUnavailable, "503"),
        (429, b"", ServiceUnavailable, "429"),
        (401, b"", ServiceRefused, "key or password"),
        (404, b"{}", ServiceRefused, "/api"),
        (200, b"<html>its page</html>", ServiceRefused, "no Prefect server"),
        (200, b"17", ServiceRefused, "no Prefect server"),
        (200, b'"2.20.1"', ServiceRefused, "2.20.1"),
        (200, b'"next"', ServiceRefused, "no Prefect server"),
    ],
)
def test_a_server_that_cannot_take_our_runs_is_one_line(asked, status, body, kind, says):
    with answering_with(status, body) as url:
        error = asked(f"{url}/api")
    assert type(error) is kind
    assert says in str(error)
    assert url in str(error)


def test_nobody_there_is_told_as_a_service_that_may_come_back(asked):
    error = asked("http://127.0.0.1:9/api")
    assert type(error) is ServiceUnavailable
    assert "127.0.0.1:9" in str(error)


def test_a_server_that_never_answers_is_given_up(asked, monkeypatch):
    monkeypatch.setattr(reaching, "ANSWER_SECONDS", 0.5)
    with answering_with(None) as url:
        monkeypatch.setattr(reaching, "ANSWER_SECONDS", 0.5)
        started = time.monotonic()
        monkeypatch.setenv("PREFECT_API_URL", f"{url}/api")
        server.reread_settings()
        with pytest.raises(ServiceUnavailable):
            demand_server(f"{url}/api")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("address", ["127.0.0.1:4200/api", "ftp://127.0.0.1/api"])
def test_what_is_no_address_is_told_as_such(asked, address):
    assert type(asked(address)) in (InputError, ServiceUnavailable)


def test_a_command_says_so_in_one_line_and_starts_no_server(diffgraph, monkeypatch, tmp_path):
    monkeypatch.setenv("PREFECT_API_URL", "http://me:hunter2@127.0.0.1:9/api")
    told = diffgraph("discover", "--home", tmp_path / "home")
    assert told.code == 1
    line = told.err.strip().splitlines()[-1]
    assert line.startswith("diffgraph: PREFECT_API_URL is")
    assert "hunter2" not in told.err
    assert "Traceback" not in told.err
    assert not (tmp_path / "home" / "prefect" / "server.log").exists()


def test_a_server_that_falls_silent_in_a_run_is_told_as_a_service():
    import httpx

    with pytest.raises(ServiceUnavailable, match="stopped answering"), answering("http://here"):
        raise httpx.ReadTimeout("")
