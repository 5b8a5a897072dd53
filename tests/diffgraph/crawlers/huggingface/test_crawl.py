"""A hub is read to its end: adapters and fine-tunes of both names of a base, once."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from diffgraph.crawlers.huggingface import HuggingFaceCrawler
from diffgraph.errors import InputError
from diffgraph.experts.library import Library
from diffgraph.families import get_family
from tests.diffgraph.crawlers.home import TOKEN
from tests.diffgraph.crawlers.huggingface.crawls import OLD_BASE, HuggingFaceHome, many, reasons
from tests.servers.huggingface import HuggingFaceServer, repository
from tests.servers.local_server import Reply


def test_adapters_and_fine_tunes_of_both_names_are_found_once(
    home: HuggingFaceHome, serve: Callable[..., HuggingFaceServer]
) -> None:
    both = repository("maker/both")
    both["tags"].append(f"base_model:adapter:{OLD_BASE}")
    hub = serve(
        [
            *(repository(f"maker/new{number}") for number in range(10)),
            repository("maker/old", OLD_BASE),
            repository("maker/tuned", relation="finetune", files={"model.safetensors": b"x"}),
            repository("maker/other", "black-forest-labs/FLUX.1-dev"),
            both,
        ]
    )
    report = home.discover(hub)
    wanted = {f"maker/{name}" for name in (*(f"new{n}" for n in range(10)), "old", "tuned", "both")}
    assert set(home.names) == wanted
    assert len(report.listed) == len(wanted)
    assert report.is_whole
    assert home.library.get(report.listed[0].ref).family == "sd15"
    kinds = {expert.ref.split("@")[0]: expert.kind for expert in report.listed}
    assert kinds["huggingface:maker/tuned"] == "checkpoint"
    assert kinds["huggingface:maker/old"] == "peft"


def test_a_second_run_asks_for_no_card(
    home: HuggingFaceHome, serve: Callable[..., HuggingFaceServer]
) -> None:
    hub = serve([repository(f"maker/{number}") for number in range(6)])
    home.discover(hub)
    assert len(hub.asked("README.md")) == 6
    hub.requests.clear()
    report = home.discover(hub)
    assert len(report.unchanged) == 6
    assert not hub.asked("README.md")


def test_a_crawl_that_is_stopped_asks_for_the_missing_cards_only(
    home: HuggingFaceHome, serve: Callable[..., HuggingFaceServer]
) -> None:
    hub = serve([repository(f"maker/{number:02}") for number in range(12)])

    def stop(done: int, name: str) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        home.discover(hub, on_progress=stop)
    assert len(home.names) == 6
    hub.requests.clear()
    report = home.discover(hub)
    assert len(home.names) == len(set(home.names)) == 12
    assert len(report.listed) == 6
    assert len(hub.asked("README.md")) == 6


@pytest.mark.parametrize("path", ["/api/models", "README.md"])
def test_what_passes_costs_nobody(
    path: str, home: HuggingFaceHome, serve: Callable[..., HuggingFaceServer]
) -> None:
    hub = serve([repository(f"maker/{number}") for number in range(6)])
    hub.fail(429, retry_after=0.01, path=path)
    hub.cut(at=20, path=path)
    report = home.discover(hub)
    assert len(report.listed) == 6
    assert report.broken == report.failed == ()


def test_a_card_that_never_comes_is_told(
    home: HuggingFaceHome, serve: Callable[..., HuggingFaceServer]
) -> None:
    hub = serve([repository("maker/a"), repository("maker/b")])
    hub.fail(500, path="/maker/a/resolve", times=20)
    report = home.discover(hub)
    assert home.names == ["maker/b"]
    assert [page.where for page in report.broken] == ["models/maker/a"]


def test_a_card_that_does_not_come_retires_nobody(
    home: HuggingFaceHome, serve: Callable[..., HuggingFaceServer]
) -> None:
    hub = serve([repository("maker/a"), repository("maker/b")])
    home.discover(hub)
    hub.publish(repository("maker/a", card="Changed."))
    hub.fail(500, path="/maker/a/resolve", times=20)
    report = home.discover(hub)
    assert len(report.broken) == 1
    assert report.retired == ()


def test_who_names_another_base_now_is_refused_not_retired(
    home: HuggingFaceHome, serve: Callable[..., HuggingFaceServer]
) -> None:
    hub = serve([repository("maker/a"), repository("maker/b")])
    home.discover(hub)
    flux = "black-forest-labs/FLUX.1-dev"
    hub.publish({**repository("maker/a", flux), "sha": repository("maker/a")["sha"]})
    report = home.discover(hub)
    assert report.retired == ()
    assert reasons(report)[0].startswith(f"made for '{flux}'")


def test_nobody_is_told_the_token(
    home: HuggingFaceHome, serve: Callable[..., HuggingFaceServer], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    hub = serve([repository("maker/a")], tokens=["another"])
    report = home.discover(hub, token=TOKEN)
    assert len(report.listed) == 1
    assert report.broken[0].where == "the token"
    said = caplog.text + str(report)
    said += "".join(path.read_text() for path in home.folder.rglob("*.json*"))
    assert TOKEN not in said


def test_a_family_without_a_base_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="emoji64 has no base model on Hugging Face"):
        HuggingFaceCrawler(Library(tmp_path), get_family("emoji64"))


def test_a_limit_of_requests_is_waited_for(
    home: HuggingFaceHome, serve: Callable[..., HuggingFaceServer]
) -> None:
    hub = serve(many(3))
    limit = {"RateLimit": '"api";r=0;t=0.05', "RateLimit-Policy": '"fixed window";"api";q=5;w=300'}
    hub.disturb(lambda reply: Reply.json({}, 429, **limit), path="/api/models")
    assert len(home.discover(hub).listed) == 3
