"""A Hugging Face hub is read to its end: adapters and fine-tunes of both names of a base, once."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import SecretStr
from safetensors.torch import save

from diffgraph.crawlers.course import MOST_FRUITLESS
from diffgraph.crawlers.discovery import DiscoveryConfig, DiscoveryReport, discover
from diffgraph.crawlers.huggingface import HuggingFaceCrawler
from diffgraph.crawlers.huggingface_pages import parse_repository
from diffgraph.crawlers.web import Web, WebConfig
from diffgraph.errors import InputError, ServiceUnavailable, UnusableListing
from diffgraph.experts.expert import Listing
from diffgraph.experts.library import Library
from diffgraph.experts.reading import open_delta
from diffgraph.families import get_family
from tests.servers.huggingface import BASE, HuggingFaceServer, repository
from tests.servers.local_server import Reply, Request

SD15 = get_family("sd15")
OLD_BASE = "runwayml/stable-diffusion-v1-5"
QUICK = WebConfig(page_size=4, first_wait=0.001, longest_wait=0.002, silence=600.0, tries=3)
TOKEN = "a-secret-token"
LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
PARAMETERS = {f"{LAYER}.weight": torch.ones(6, 4)}
WEIGHTS = save(
    {f"{LAYER}.lora_A.weight": torch.ones(1, 4), f"{LAYER}.lora_B.weight": torch.ones(6, 1)}
)


class Home:
    """A home folder, and crawls into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def library(self) -> Library:
        return Library(self.folder, bundled=())

    @property
    def names(self) -> list[str]:
        return [expert.ref.split(":")[1].split("@")[0] for expert in self.library.experts()]

    def discover(
        self,
        hub: HuggingFaceServer,
        config: DiscoveryConfig | None = None,
        token: str | None = None,
        on_progress: Any = None,
        parameters: dict[str, torch.Tensor] | None = None,
    ) -> DiscoveryReport:
        library, config = self.library, config or DiscoveryConfig(metadata_only=True)
        secret = SecretStr(token) if token else None
        web = Web(hub.url, secret, QUICK)
        with HuggingFaceCrawler(library, SD15, web, since=config.since) as crawler:
            weights = parameters or PARAMETERS
            return discover(crawler, library, SD15, on_progress, weights, config)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def serve() -> Iterator[Callable[..., HuggingFaceServer]]:
    """Start a hub that ends with the test."""
    started: list[HuggingFaceServer] = []

    def start(*arguments: Any, **options: Any) -> HuggingFaceServer:
        started.append(HuggingFaceServer(*arguments, **options).__enter__())
        return started[-1]

    yield start
    for server in started:
        server.__exit__()


def parse(**changes: Any) -> Listing:
    entry = repository("maker/glow", **changes)
    return parse_repository(entry, entry["_readme"], "adapter", SD15.hub_names, "http://hub")


def reasons(report: DiscoveryReport) -> list[str]:
    return [expert.reason for expert in (*report.rejected, *report.registered_only)]


def test_adapters_and_fine_tunes_of_both_names_are_found_once(
    home: Home, serve: Callable[..., HuggingFaceServer]
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


def test_a_page_is_understood() -> None:
    listing = parse()
    assert str(listing.ref).startswith("huggingface:maker/glow@")
    assert listing.description == "# A style\n\nDraws everything at night."
    assert (listing.type, listing.base_model) == ("LORA", BASE)
    assert listing.trigger_words == ("nightglow",)
    assert listing.tags == ("lora", "text-to-image", "night")
    assert listing.example_prompts == ("a fox, nightglow",)
    assert listing.images[0].url.startswith("http://hub/maker/glow/resolve/")
    assert listing.licence.name == "creativeml-openrail-m"
    assert listing.licence.allow_derivatives
    assert listing.licence.creator == "maker"
    assert listing.file is not None
    assert listing.file.url.startswith("http://hub/maker/glow/resolve/")
    assert listing.page_url == "http://hub/maker/glow"
    assert not listing.gated


@pytest.mark.parametrize(
    ("about", "derivatives", "commercial", "credit"),
    [
        ({"license": "mit"}, True, ("Sell",), True),
        ({"license": "cc-by-nc-4.0"}, True, (), True),
        ({"license": "cc-by-nd-4.0"}, False, ("Sell",), True),
        ({"license": "cc-by-nc-nd-4.0"}, False, (), True),
        ({"license": "openrail++"}, True, ("Sell",), False),
        ({"license": "other", "license_name": "flux-1-non-commercial-license"}, False, (), False),
        ({"license": "other", "license_name": "mit"}, False, (), False),
        ({"license": "my-own-words"}, False, (), False),
        ({"license": "other"}, False, (), False),
        ({"license": "mit", "license_name": "cc-by-nd-4.0"}, False, ("Sell",), True),
        ({"license": "mit", "license_name": "ask me first"}, False, (), True),
        ({"license": "cc-by-nd-4.0", "license_link": "https://h/?allowDerivatives=True"},
         False, (), True),
        ({"license": "unknown"}, False, (), False),
        (
            {
                "license": "other",
                "license_name": "bespoke-lora-trained-license",
                "license_link": "https://example.org/?allowNoCredit=False"
                "&allowCommercialUse=Image&allowDerivatives=False&allowDifferentLicense=True",
            },
            False,
            ("Image",),
            True,
        ),
    ],
)  # fmt: skip
def test_a_licence_permits_what_it_says_and_no_more(
    about: dict[str, Any], derivatives: bool, commercial: tuple[str, ...], credit: bool
) -> None:
    licence = parse(about=about).licence
    assert licence.allow_derivatives is derivatives
    assert licence.allow_commercial_use == commercial
    assert licence.credit_required is credit


def test_refusals_have_their_reasons(home: Home, serve: Callable[..., HuggingFaceServer]) -> None:
    hub = serve(
        [
            repository("a/pickle", files={"pytorch_lora_weights.bin": b""}),
            repository("a/folder", relation="finetune", files={"vae/model.safetensors": b""}),
            repository("a/empty", files={}),
            repository("a/adult", tags=[f"base_model:adapter:{BASE}", "not-for-all-audiences"]),
            repository("a/control", tags=[f"base_model:adapter:{BASE}", "controlnet"]),
            repository("a/silent", about={"license": None}, tags=[f"base_model:adapter:{BASE}"]),
            repository("a/nothing", sha=None),
            {**repository("a/x"), "id": "../../etc/passwd"},
        ]
    )
    report = home.discover(hub)
    assert sorted(reasons(report)) == [
        "'Controlnet' is no set of weights that can be merged",
        "its page states no licence that we know, so none permits a merge",
        "marked as not safe for work",
        "offers no file (early access, or taken down)",
        "offers only PickleTensor files, which could run code; expected SafeTensor",
        "offers only parts of a model (an autoencoder, adapters of single components); expected a "
        "SafeTensor file, or a folder with a unet or a transformer",
    ]
    assert sorted(page.reason for page in report.broken) == [
        "the page has no usable repository name",
        "the page of a/nothing names no commit",
    ]


WRONG: tuple[Any, ...] = (None, True, -1, 1e400, "", "\ud800", [], [None], {}, [[]], [{}], 1.5)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: repr(value)[:10])
@pytest.mark.parametrize("field", sorted(key for key in repository("a/b") if key[0] != "_"))
def test_any_value_in_any_field_is_read_or_refused(field: str, wrong: Any) -> None:
    for changes in ({field: wrong}, {"cardData": {field: wrong}}):
        try:
            listing = parse(**changes)
        except UnusableListing:
            continue
        assert Listing.model_validate_json(listing.model_dump_json()) == listing


@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: repr(value)[:10])
@pytest.mark.parametrize(
    "field", ["base_model", "license", "license_link", "license_name", "instance_prompt", "widget"]
)
def test_any_value_in_any_field_of_a_card_is_read(field: str, wrong: Any) -> None:
    listing = parse(about={"license": "other", field: wrong})
    assert Listing.model_validate_json(listing.model_dump_json()) == listing


def test_a_second_run_asks_for_no_card(home: Home, serve: Callable[..., HuggingFaceServer]) -> None:
    hub = serve([repository(f"maker/{number}") for number in range(6)])
    home.discover(hub)
    assert len(hub.asked("README.md")) == 6
    hub.requests.clear()
    report = home.discover(hub)
    assert len(report.unchanged) == 6
    assert not hub.asked("README.md")


def test_a_crawl_that_is_stopped_asks_for_the_missing_cards_only(
    home: Home, serve: Callable[..., HuggingFaceServer]
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


def test_weights_come_checked_and_a_new_commit_supersedes(
    home: Home, serve: Callable[..., HuggingFaceServer]
) -> None:
    files = {"pytorch_lora_weights.safetensors": WEIGHTS}
    hub = serve([repository("maker/glow", files=files)], tokens=[TOKEN])
    first = home.discover(hub, DiscoveryConfig(), token=TOKEN)
    assert [expert.status for expert in first.new] == ["ready"]
    assert {request.token for request in hub.storage.requests} == {""}
    hub.publish(
        repository("maker/glow", files=files, card="Better.", lastModified="2024-03-01T00:00:00Z")
    )
    second = home.discover(hub, DiscoveryConfig())
    assert [expert.ref for expert in second.superseded] == [first.new[0].ref]
    assert second.retired == ()
    hub.unpublish("maker/glow")
    third = home.discover(hub, DiscoveryConfig())
    assert len(third.retired) == 2


def test_a_file_that_is_not_what_the_hub_states_is_refused(
    home: Home, serve: Callable[..., HuggingFaceServer]
) -> None:
    hub = serve([repository("maker/glow", files={"pytorch_lora_weights.safetensors": WEIGHTS})])
    hub.storage.disturb(lambda reply: type(reply)(200, WEIGHTS[::-1], reply.headers), times=9)
    report = home.discover(hub, DiscoveryConfig())
    assert "SHA-256" in reasons(report)[0]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("LoraConfig", {"lora_alpha": 8}),
        ("LoraConfig", {"lora_alpha": 8, "use_rslora": True}),
        ("LoHaConfig", {"alpha": 16}),
        ("LoKrConfig", {"alpha": 16}),
    ],
    ids=["twice", "rooted", "LoHa", "LoKr"],
)
def test_the_alpha_that_peft_keeps_beside_its_weights_counts(
    kind: str,
    options: dict[str, Any],
    home: Home,
    serve: Callable[..., HuggingFaceServer],
    tmp_path: Path,
) -> None:
    """An adapter as PEFT itself saves and merges it, found on a hub, opened from the library."""
    import peft

    net: Any = torch.nn.Module()
    net.add_module("mid_block", torch.nn.Module())
    holder: Any = net.mid_block
    for name in ("attentions", "0", "transformer_blocks", "0", "attn1"):
        holder.add_module(name, torch.nn.Module())
        holder = getattr(holder, name)
    holder.add_module("to_q", torch.nn.Linear(8, 6, bias=False))
    base = {f"{LAYER}.weight": holder.to_q.weight.detach().clone()}
    config = getattr(peft, kind)(target_modules=["to_q"], r=4, **options)
    model: Any = peft.get_peft_model(net, config)
    generator = torch.Generator().manual_seed(0)
    for name, value in model.named_parameters():
        if name.endswith(".default") or ".default." in name:
            value.data = torch.randn(value.shape, generator=generator)
    model.save_pretrained(tmp_path / "saved")
    model.merge_and_unload()
    expected = holder.to_q.weight.detach() - base[f"{LAYER}.weight"]
    files = {
        name: (tmp_path / "saved" / name).read_bytes()
        for name in ("adapter_model.safetensors", "adapter_config.json")
    }
    bare = {"adapter_model.safetensors": files["adapter_model.safetensors"]}
    hub = serve([repository("maker/glow", files=files), repository("other/glow", files=bare)])
    home.discover(hub, DiscoveryConfig(), parameters=base)
    glow, without = home.library.experts("ready")
    delta = open_delta(home.library.path_of(glow.sha256), base)
    found = delta.updates[f"{LAYER}.weight"].dense()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    # the same weights without a configuration are another expert, which says what was taken
    assert without.sha256 != glow.sha256
    remark = "no alpha is stated: the rank is taken"
    assert glow.coverage is not None
    assert without.coverage is not None
    assert remark not in glow.coverage.evidence
    assert remark in without.coverage.evidence


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (b"{", "its configuration is not JSON"),
        (b"[" * 100_000, "its configuration is not JSON"),
        (b"\xff\x00", "its configuration is not JSON"),
        (b"[1]", "its configuration is not an object"),
        (b'{"lora_alpha": "much"}', "is not a number"),
        (b'{"lora_alpha": 1' + b"0" * 400 + b"}", "is not a number"),
        (b'{"lora_alpha": 8}' + b" " * (1 << 20), "adapter_config.json has 1048593 bytes"),
    ],
    ids=["cut", "deep", "no text", "list", "word", "huge", "long"],
)
def test_a_hostile_configuration_refuses_its_expert_only(
    config: bytes, says: str, home: Home, serve: Callable[..., HuggingFaceServer]
) -> None:
    files = {"adapter_model.safetensors": WEIGHTS, "adapter_config.json": config}
    fine = {"adapter_model.safetensors": WEIGHTS, "adapter_config.json": b'{"lora_alpha": 2}'}
    hub = serve([repository("maker/bad", files=files), repository("maker/fine", files=fine)])
    report = home.discover(hub, DiscoveryConfig())
    assert [expert.name for expert in report.rejected] == ["bad"]
    assert says in reasons(report)[0]
    assert [expert.name for expert in report.new] == ["fine"]


def test_a_configuration_that_does_not_come_is_asked_for_again(
    home: Home, serve: Callable[..., HuggingFaceServer]
) -> None:
    """Its weights alone would be merged at another strength."""
    files = {"adapter_model.safetensors": WEIGHTS, "adapter_config.json": b'{"lora_alpha": 2}'}
    hub = serve([repository("maker/glow", files=files)])
    hub.fail(500, path="adapter_config.json", times=3)
    report = home.discover(hub, DiscoveryConfig())
    assert len(report.failed) == 1
    assert home.library.experts("ready") == ()
    again = home.discover(hub, DiscoveryConfig())
    path = home.library.path_of(again.updated[0].sha256)
    delta = open_delta(path, PARAMETERS)
    assert torch.equal(delta.updates[f"{LAYER}.weight"].dense(), 2 * torch.ones(6, 4))


def test_a_gated_file_wants_a_token(home: Home, serve: Callable[..., HuggingFaceServer]) -> None:
    files = {"pytorch_lora_weights.safetensors": WEIGHTS}
    hub = serve([repository("maker/glow", files=files, gated="auto")], tokens=[TOKEN])
    report = home.discover(hub, DiscoveryConfig())
    assert "agreed to its terms" in reasons(report)[0]
    assert home.library.listing(report.rejected[0].ref).gated
    again = home.discover(hub, DiscoveryConfig(), token=TOKEN)
    assert [expert.status for expert in again.updated] == ["ready"], "tried again, though unchanged"


@pytest.mark.parametrize("path", ["/api/models", "README.md"])
def test_what_passes_costs_nobody(
    path: str, home: Home, serve: Callable[..., HuggingFaceServer]
) -> None:
    hub = serve([repository(f"maker/{number}") for number in range(6)])
    hub.fail(429, retry_after=0.01, path=path)
    hub.cut(at=20, path=path)
    report = home.discover(hub)
    assert len(report.listed) == 6
    assert report.broken == report.failed == ()


def test_a_card_that_never_comes_is_told(
    home: Home, serve: Callable[..., HuggingFaceServer]
) -> None:
    hub = serve([repository("maker/a"), repository("maker/b")])
    hub.fail(500, path="/maker/a/resolve", times=20)
    report = home.discover(hub)
    assert home.names == ["maker/b"]
    assert [page.where for page in report.broken] == ["models/maker/a"]


def test_a_card_that_does_not_come_retires_nobody(
    home: Home, serve: Callable[..., HuggingFaceServer]
) -> None:
    hub = serve([repository("maker/a"), repository("maker/b")])
    home.discover(hub)
    hub.publish(repository("maker/a", card="Changed."))
    hub.fail(500, path="/maker/a/resolve", times=20)
    report = home.discover(hub)
    assert len(report.broken) == 1
    assert report.retired == ()


def test_who_names_another_base_now_is_refused_not_retired(
    home: Home, serve: Callable[..., HuggingFaceServer]
) -> None:
    hub = serve([repository("maker/a"), repository("maker/b")])
    home.discover(hub)
    flux = "black-forest-labs/FLUX.1-dev"
    hub.publish({**repository("maker/a", flux), "sha": repository("maker/a")["sha"]})
    report = home.discover(hub)
    assert report.retired == ()
    assert reasons(report)[0].startswith(f"made for '{flux}'")


def test_nobody_is_told_the_token(
    home: Home, serve: Callable[..., HuggingFaceServer], caplog: pytest.LogCaptureFixture
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


def many(count: int) -> list[dict[str, Any]]:
    return [repository(f"maker/new{number}") for number in range(count)]


class Stuck(HuggingFaceServer):
    """Its lists go on for ever, to the same repositories or to none, under ever new cursors."""

    kept = 4

    def _list(self, request: Request) -> Reply:
        query = {name: values for name, values in request.query.items() if name != "cursor"}
        items = json.loads(super()._list(replace(request, query=query)).body)[: self.kept]
        link = f'<{self.url}/api/models?cursor=fresh{len(self.requests)}>; rel="next"'
        return Reply.json(items, Link=link)


@pytest.mark.parametrize("kept", [4, 0])
def test_a_list_that_goes_on_for_ever_is_left_and_told(kept: int, home: Home) -> None:
    with Stuck(many(6)) as hub:
        hub.kept = kept
        report = home.discover(hub)
        lists = len(hub.asked("/api/models"))
    assert len(home.names) == kept
    assert lists <= 4 * (MOST_FRUITLESS + 2) + 10, "two names of the base, two relations"
    assert report.broken[0].reason == (
        f"{MOST_FRUITLESS} pages one after the other brought nobody new; not read on"
    )


@pytest.mark.parametrize(
    "link",
    ['<https://hub.example/api/models?p=2>; rel="next"', '<http://[::1>; rel="next"'],
)
def test_a_link_without_a_cursor_is_told(
    link: str, home: Home, serve: Callable[..., HuggingFaceServer]
) -> None:
    hub = serve(many(3))
    hub.disturb(lambda reply: replace(reply, headers={**reply.headers, "Link": link}), path="api")
    report = home.discover(hub)
    assert len(home.names) == 3
    assert [entry.reason for entry in report.broken] == [
        "it goes on, and its cursor cannot be used"
    ]


class Breaking(HuggingFaceServer):
    """It cannot list one of its repositories."""

    def __init__(self, repositories: list[dict[str, Any]], status: int, begun: bool = True) -> None:
        super().__init__(repositories)
        self._status, self._begun = status, begun

    def _list(self, request: Request) -> Reply:
        reply = super()._list(request)
        is_meant = b"maker/new6" in reply.body and (self._begun <= bool(request.get("cursor")))
        return Reply.json({}, self._status) if is_meant else reply


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 503])
def test_what_lies_behind_a_page_that_never_comes_is_read_in_another_order(
    status: int, home: Home
) -> None:
    found = [
        {**entry, "lastModified": f"2024-03-{30 - place}", "createdAt": f"2024-01-{11 + place}"}
        for place, entry in enumerate(many(14))
    ]
    with Breaking([*found, repository("maker/old", OLD_BASE)], status) as hub:
        report = home.discover(hub)
    wanted = {*(f"maker/new{number}" for number in range(14) if number != 6), "maker/old"}
    assert set(home.names) == wanted
    assert {entry.where for entry in report.broken} == {f"the list of {BASE}"}
    assert f"not read on: {hub.url}/api/models: it answers {status}" in report.broken[0].reason
    assert report.failed == report.retired == ()


@pytest.mark.parametrize("status", [400, 403, 404, 500])
def test_a_list_that_never_begins_costs_no_other_list(status: int, home: Home) -> None:
    with HuggingFaceServer([repository("maker/a"), repository("maker/old", OLD_BASE)]) as hub:
        home.discover(hub)
    with Breaking(
        [repository("maker/new6"), repository("maker/old2", OLD_BASE)], status, False
    ) as hub:
        report = home.discover(hub)
    assert "maker/old2" in home.names
    assert [entry.where for entry in report.broken] == [f"the list of {BASE}"]
    assert report.retired == (), "who would have been in it has not gone"
    assert not report.is_whole


def test_a_hub_that_is_down_says_so_in_one_line(home: Home) -> None:
    with HuggingFaceServer([repository("maker/a")]) as hub:
        hub.fail(503, times=99)
        with pytest.raises(ServiceUnavailable, match="it answers 503"):
            home.discover(hub)


def test_a_hub_that_goes_down_is_not_asked_for_each_expert_it_did_not_list(
    home: Home, serve: Callable[..., HuggingFaceServer]
) -> None:
    hub = serve(many(8))
    home.discover(hub)
    hub.repositories = {name: {**one, "tags": []} for name, one in hub.repositories.items()}
    hub.fail(500, path="/api/models/maker", times=999)
    hub.requests.clear()
    report = home.discover(hub)
    assert len(hub.asked("/api/models/maker")) <= QUICK.tries
    assert report.retired == ()
    assert not report.is_whole


def test_a_page_that_is_too_large_is_read_in_parts(
    home: Home, serve: Callable[..., HuggingFaceServer]
) -> None:
    hub = serve(many(9))
    whole = hub.answer(Request("GET", "/api/models", {"limit": ["4"]}, {})).body
    small = QUICK.model_copy(update={"largest_answer": len(whole) // 3})
    with HuggingFaceCrawler(home.library, SD15, Web(hub.url, config=small)) as crawler:
        assert len(list(crawler.listings())) == 9
    assert {request.get("limit") for request in hub.asked("/api/models")} >= {"4", "1"}


def test_a_limit_of_requests_is_waited_for(
    home: Home, serve: Callable[..., HuggingFaceServer]
) -> None:
    hub = serve(many(3))
    limit = {"RateLimit": '"api";r=0;t=0.05', "RateLimit-Policy": '"fixed window";"api";q=5;w=300'}
    hub.disturb(lambda reply: Reply.json({}, 429, **limit), path="/api/models")
    assert len(home.discover(hub).listed) == 3
