"""Pages of hubs: one that a stranger wrote, beside one in order."""

from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from diffgraph.agents import get_agent
from diffgraph.crawlers.discovery import discover, examine
from diffgraph.crawlers.folder import FolderCrawler
from diffgraph.crawlers.huggingface_pages import parse_repository
from diffgraph.errors import ExpertError, InputError
from diffgraph.experts.expert import Listing
from diffgraph.experts.library import Library
from diffgraph.families import get_family
from diffgraph.families.vocabulary import Vocabulary
from tests.hostile.files import PARAMETERS, lora
from tests.hostile.fuzz.bounds import demand_a_line
from tests.hostile.fuzz.grammar import HOSTILE_TEXTS, changed, mangled, texts, to_json, values

HOSTILE, HONEST = 7, 8


def page(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "name": "Nightfall",
        "description": "<p>Makes it <b>night</b>, best at 0.8.</p><ul><li>a moon</li></ul>",
        "type": "LORA",
        "tags": ["night", "style"],
        "nsfw": False,
        "nsfwLevel": 1,
        "poi": False,
        "minor": False,
        "mode": None,
        "creator": {"username": "somebody"},
        "stats": {"downloadCount": 12, "rating": 4.5},
        "allowDerivatives": True,
        "allowNoCredit": True,
        "allowCommercialUse": ["Image", "Sell"],
        "modelVersions": [
            {
                "id": number * 10,
                "name": "v1",
                "baseModel": "emoji64",
                "status": "Published",
                "trainedWords": ["at night"],
                "publishedAt": "2023-02-02T10:00:00.000Z",
                "files": [
                    {
                        "name": f"{number}.safetensors",
                        "sizeKB": 1.0,
                        "type": "Model",
                        "metadata": {"format": "SafeTensor"},
                        "pickleScanResult": "Success",
                        "virusScanResult": "Success",
                        "downloadUrl": f"files/{number}.safetensors",
                    }
                ],
                "images": [{"url": "images/a.png", "meta": {"prompt": "a cat, at night"}}],
            }
        ],
    }


civitai = st.one_of(
    changed(page(HOSTILE)).map(to_json),
    changed({"items": [page(HOSTILE)], "metadata": {"nextCursor": "x"}}).map(to_json),
    mangled(to_json(page(HOSTILE))),
)
"""Pages in the shape of Civitai's that are nearly right."""


def others_go_on(text: bytes, folder: Path) -> None:
    """Whatever one page says, the expert of the page beside it is admitted and described."""
    hub = _hub(folder)
    (hub / "models" / f"{HOSTILE}.json").write_bytes(text)
    library, family = Library(folder / "home", bundled=()), get_family("emoji64")
    discover(FolderCrawler(hub), library, family, parameters=PARAMETERS)
    ready = {expert.ref for expert in library.experts(("ready",))}
    assert f"hub:{HONEST}@{HONEST * 10}" in ready
    for ref in ready:
        _describe(library.listing(ref))


def _hub(folder: Path) -> Path:
    hub = folder / "hub"
    for name in ("models", "files"):
        (hub / name).mkdir(parents=True)
    (hub / "hub.json").write_text('{"name": "hub"}')
    (hub / "models" / f"{HONEST}.json").write_bytes(to_json(page(HONEST)))
    for number in (HOSTILE, HONEST):
        (hub / "files" / f"{number}.safetensors").write_bytes(lora())
    return hub


hub_files = st.one_of(
    changed({"name": "hub", "about": "made by hand"}).map(to_json),
    values.map(to_json),
    mangled(b'{"name": "hub"}'),
)
"""What stands in a hub's own file."""


def hub_read_or_refused(text: bytes, folder: Path) -> None:
    """A hub has a name of its own that fits a reference; or it is refused in a line."""
    hub = _hub(folder)
    (hub / "hub.json").write_bytes(text)
    try:
        crawler = FolderCrawler(hub)
    except InputError as error:
        demand_a_line(error)
        return
    assert crawler.source.isascii()
    assert any(isinstance(found, Listing) for found in crawler.listings())


REPOSITORY = {
    "id": "maker/nightglow",
    "sha": "0123456789abcdef0123456789abcdef01234567",
    "createdAt": "2024-01-01T00:00:00.000Z",
    "gated": False,
    "downloads": 120,
    "tags": ["diffusers", "lora", "base_model:adapter:some/base", "night"],
    "cardData": {
        "base_model": "some/base",
        "license": "mit",
        "instance_prompt": "nightglow",
        "widget": [{"text": "a fox, nightglow", "output": {"url": "images/fox.png"}}],
    },
    "siblings": [{"rfilename": "pytorch_lora_weights.safetensors"}, {"rfilename": "README.md"}],
}
CARD = "---\nlicense: mit\n---\n# Nightglow\n\nDraws <b>everything</b> at night. Use 0.8."

huggingface = st.tuples(
    changed(REPOSITORY),
    st.one_of(
        mangled(CARD.encode()).map(lambda card: card.decode("utf-8", "replace")),
        texts,
        st.builds(
            lambda parts, times: "".join(parts) * times,
            st.lists(
                st.sampled_from([*HOSTILE_TEXTS, "<p>", "</p>", "<div style='display:none'>"]),
                max_size=4,
            ),
            st.sampled_from([1, 3, 40]),
        ),
    ),
)
"""A repository's item and its card."""


def described_or_refused(found: tuple[Any, str], folder: Path) -> None:
    """A repository becomes a listing that can be examined and described; or it is refused."""
    item, card = found
    try:
        listing = parse_repository(item, card, "adapter", ("some/base",), "https://hub.example")
    except ExpertError as error:
        demand_a_line(error)
        return
    assert len(examine(listing, get_family("sd15")) or "") <= 1_000
    _describe(listing)


@cache
def _offline() -> Any:
    return get_agent("offline", Vocabulary(frozenset()))


def _describe(listing: Listing) -> None:
    card = _offline().describe(listing)
    assert len(card.summary) + sum(map(len, card.skills)) < 2_000
    assert card.recommended_strength is None or 0 < card.recommended_strength <= 2
