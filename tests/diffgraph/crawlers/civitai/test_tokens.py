"""A token goes to its hub and to nobody else."""

import logging
from collections.abc import Callable

import pytest

from diffgraph.crawlers.civitai_client import CivitaiClient
from diffgraph.errors import InputError, ServiceError
from tests.diffgraph.crawlers.civitai.crawls import CivitaiHome
from tests.diffgraph.crawlers.home import TOKEN
from tests.servers.civitai import CivitaiServer
from tests.servers.civitai_pages import pages


class TestTokens:
    """They go to the hub and nowhere else."""

    def test_an_expired_token_is_told_and_the_list_read_without_it(
        self, home: CivitaiHome, serve: Callable[..., CivitaiServer]
    ) -> None:
        hub = serve(pages(15), tokens=["another"])
        report = home.discover(hub, token=TOKEN)
        assert len(home.refs) == 15
        (told,) = report.broken
        assert told.where == "the token"
        assert "401" in told.reason
        assert "expired" in told.reason
        assert TOKEN not in told.reason

    def test_a_token_is_in_no_message_log_or_file(
        self,
        home: CivitaiHome,
        serve: Callable[..., CivitaiServer],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        hub = serve(pages(15), tokens=[TOKEN])
        hub.fail(503)
        home.discover(hub, token=TOKEN)
        assert {request.token for request in hub.requests} == {TOKEN}
        hub.fail(503, times=100)
        with pytest.raises(ServiceError) as error:
            home.discover(hub, token=TOKEN)
        said = [caplog.text, repr(error.value), str(error.value), repr(error.value.__cause__)]
        said += [path.read_text() for path in home.folder.rglob("*") if path.is_file()]
        assert not [text for text in said if TOKEN in text]

    def test_a_redirect_to_another_host_takes_no_token_along(
        self, home: CivitaiHome, serve: Callable[..., CivitaiServer]
    ) -> None:
        hub, elsewhere = serve(pages(15), tokens=[TOKEN]), serve(pages(15))
        leave = lambda reply: type(reply)(  # noqa: E731
            302, b"", {"Location": f"{elsewhere.url}/api/v1/models"}
        )
        hub.disturb(leave)
        home.discover(hub, token=TOKEN)
        assert elsewhere.requests
        assert {request.token for request in elsewhere.requests} == {""}

    def test_the_address_of_the_next_page_is_not_followed(
        self, home: CivitaiHome, serve: Callable[..., CivitaiServer]
    ) -> None:
        hub, elsewhere = serve(pages(25), tokens=[TOKEN]), serve(pages(25))
        hub._host = elsewhere.url
        home.discover(hub, token=TOKEN)
        assert len(home.refs) == 25
        assert not elsewhere.requests

    @pytest.mark.parametrize(
        "url",
        ["", "ftp://host", "http://", "file:///etc", "https://name:word@host", "http://host:x",
         "http://[::1"],
    )  # fmt: skip
    def test_an_address_that_cannot_be_used_is_told_without_its_secrets(self, url: str) -> None:
        with pytest.raises(InputError, match="DIFFGRAPH_CIVITAI_URL") as error:
            CivitaiClient(url)
        assert "word@" not in str(error.value)
