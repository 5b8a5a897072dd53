"""What an expert draws, by its tags, its name and its hub's words, decides whether it is taken."""

from typing import Any

import pytest

from diffgraph.crawlers.civitai_pages import parse_model
from diffgraph.crawlers.content import ContentConfig
from diffgraph.crawlers.discovery import DiscoveryConfig, examine
from diffgraph.crawlers.examining import check
from diffgraph.crawlers.huggingface_pages import parse_repository
from diffgraph.errors import NotMergeable, UnusableListing
from diffgraph.experts.expert import Listing
from diffgraph.experts.library import page_hash
from diffgraph.families import get_family

BASE = "runwayml/stable-diffusion-v1-5"
EMOJI64 = get_family("emoji64")


def listing(version: dict[str, Any] | None = None, **changes: Any) -> Listing:
    file = {"downloadUrl": "https://hub.example/1", "name": "a.safetensors"}
    only = {"id": 2, "name": "v1", "baseModel": "emoji64", "files": [file], **(version or {})}
    page = {"id": 1, "name": "Nightfall", "type": "LORA", "modelVersions": [only], **changes}
    (found,) = parse_model(page, "civitai")
    return found


def refusal(found: Listing, **rules: Any) -> str:
    config = DiscoveryConfig(content=ContentConfig(**rules))
    return examine(found, EMOJI64, config) or ""


REAL, MINOR, EXPLICIT = "a real person", "a minor", "not safe for work"


@pytest.mark.parametrize(
    ("tag", "what"),
    [
        ("celebrity", REAL), ("Celebrities", REAL), ("real person", REAL), ("real_person", REAL),
        ("RealPerson", REAL), ("actress", REAL), ("celeb", REAL), ("female celebrity", REAL),
        ("minor", MINOR), ("minors", MINOR), ("loli", MINOR), ("under-age", MINOR),
        ("nsfw", EXPLICIT), ("NSFW", EXPLICIT), ("explicit", EXPLICIT), ("hentai", EXPLICIT),
        ("sexually explicit", EXPLICIT), ("not for all audiences", EXPLICIT), ("R-18", EXPLICIT),
        ("rule34", EXPLICIT), ("some_mix_nsfw", EXPLICIT),
        ("\u0441\u0435lebrity", REAL), ("n.s.f.w", EXPLICIT), ("n\u200bsfw", EXPLICIT),
        ("\uff4e\uff53\uff46\uff57", EXPLICIT), ("n5fw", EXPLICIT), ("s3x", EXPLICIT),
        ("l0li", MINOR), ("n_s_f_w", EXPLICIT), ("18+", EXPLICIT), ("\U0001f51e", EXPLICIT),
        ("r34", EXPLICIT), ("under 18", MINOR), ("influencers", REAL), ("real-life person", REAL),
        ("famous actor", REAL), ("K-Pop idol", REAL),
        ("\U0001f15d\U0001f162\U0001f155\U0001f166", EXPLICIT),
    ],
)  # fmt: skip
def test_a_tag_says_it_though_the_flags_do_not(tag: str, what: str) -> None:
    reason = refusal(listing(tags=["style", tag]))
    assert what in reason
    assert "its tag" in reason


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("Celebrity Faces", REAL), ("CelebrityMix_v3", REAL), ("Real People XL", REAL),
        ("Minor girl", MINOR), ("Loli Style", MINOR), ("Explicit Poses", EXPLICIT),
        ("NSFWv2", EXPLICIT), ("Nude World", EXPLICIT), ("Nightfall [NSFW]", EXPLICIT),
        ("No celebrity? A celebrity!", REAL), ("N S F W pack", EXPLICIT),
    ],
)  # fmt: skip
def test_a_name_says_it_though_the_flags_do_not(name: str, what: str) -> None:
    reason = refusal(listing(name=name))
    assert what in reason
    assert "its name" in reason
    assert refusal(listing(version={"name": name})) == reason, "a version's name counts as well"


@pytest.mark.parametrize(
    "text",
    [
        "Prelude in A minor", "A minor", "Waltz in C# minor op. 64", "E flat minor scale",
        "Ursa Minor", "Minor Arcana tarot", "minor fixes", "Minor update", "no celebrity",
        "not a celebrity", "no nsfw", "non-NSFW", "without real people", "celebrity-free",
        "no minors", "SFW", "Essex", "sextant", "Explicitly drawn lines", "nude lipstick",
        "realistic person", "Lolita fashion", "Persona 5", "Mature trees", "Unreal", "personal",
        "Singer sewing machine", "Adult swim", "Pornichet", "analog", "not a real person",
    ],
)  # fmt: skip
def test_what_only_sounds_like_it_is_taken(text: str) -> None:
    assert refusal(listing(name=text, tags=["style", "no nsfw", "minor arcana"])) == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"poi": True}, REAL),
        ({"minor": True}, MINOR),
        ({"nsfw": True}, EXPLICIT),
        ({"nsfwLevel": 28}, EXPLICIT),
        ({"nsfwLevel": 32}, EXPLICIT),
        ({"nsfwLevel": 30}, EXPLICIT),
        ({"nsfwLevel": "X"}, EXPLICIT),
        ({"version": {"nsfwLevel": 60}}, EXPLICIT),
        ({"mode": "TakenDown"}, "TakenDown"),
        ({"mode": "Archived"}, "Archived"),
        ({"mode": "SomethingNew"}, "SomethingNew"),
        ({"mode": {"a": 1}}, "withdrawn"),
        ({"status": "UnpublishedViolation"}, "UnpublishedViolation"),
        ({"version": {"status": "Deleted"}}, "Deleted"),
        ({"version": {"status": "Draft"}}, "Draft"),
        ({"availability": "Private"}, "Private"),
        ({"deletedAt": "2024-01-01T00:00:00Z"}, "deletedAt"),
        ({"tosViolation": True}, "tosViolation"),
        ({"nsfw": 1}, EXPLICIT),
        ({"nsfw": "X"}, EXPLICIT),
        ({"nsfw": "Mature"}, EXPLICIT),
        ({"poi": 1}, REAL),
        ({"poi": "yes"}, REAL),
        ({"minor": "1"}, MINOR),
        ({"version": {"nsfw": True}}, EXPLICIT),
        ({"version": {"poi": True}}, REAL),
        ({"version": {"minor": True}}, MINOR),
        ({"nsfwLevel": "28"}, EXPLICIT),
        ({"nsfwLevel": 28.0}, EXPLICIT),
        ({"nsfwLevel": ["X"]}, EXPLICIT),
        ({"nsfwLevel": -1}, EXPLICIT),
        ({"tags": "style, nsfw"}, EXPLICIT),
        ({"tags": [*map(str, range(200)), "nsfw"]}, EXPLICIT),
    ],
    ids=str,
)
def test_each_of_the_hubs_fields_is_heeded(changes: dict[str, Any], reason: str) -> None:
    assert reason in refusal(listing(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"poi": False, "minor": False, "nsfw": False, "mode": None, "sfwOnly": True},
        {"nsfwLevel": 1}, {"nsfwLevel": 0}, {"nsfwLevel": 2}, {"nsfwLevel": 31}, {"nsfwLevel": 3},
        {"status": "Published", "availability": "Public"}, {"mode": ""},
        {"nsfw": "None"}, {"nsfw": "Soft"}, {"nsfw": 0}, {"poi": "false"}, {"minor": None},
        {"nsfwLevel": "1"}, {"nsfwLevel": None}, {"nsfwLevel": []},
        {"version": {"status": "Published", "availability": "Public", "nsfwLevel": 1}},
    ],
    ids=str,
)  # fmt: skip
def test_a_page_in_order_is_taken(changes: dict[str, Any]) -> None:
    assert refusal(listing(**changes)) == ""


@pytest.mark.parametrize("tag", ["celebrity", "nsfw", "minor"])
def test_the_rule_can_keep_the_page_only(tag: str) -> None:
    rules = {"real_people": "know", "minors": "know", "explicit": "know"}
    config = DiscoveryConfig(content=ContentConfig.model_validate(rules))
    with pytest.raises(NotMergeable):
        check(listing(tags=[tag]), EMOJI64, config)
    with pytest.raises(UnusableListing):
        check(listing(tags=[tag]), EMOJI64)


def test_what_was_withdrawn_is_known_or_refused() -> None:
    gone = listing(mode="TakenDown")
    with pytest.raises(NotMergeable):
        check(gone, EMOJI64)
    with pytest.raises(UnusableListing):
        check(gone, EMOJI64, DiscoveryConfig(content=ContentConfig(withdrawn="refuse")))


def test_the_rule_can_let_real_people_pass_but_never_minors() -> None:
    assert refusal(listing(tags=["celebrity"], poi=True), real_people="take") == ""
    with pytest.raises(ValueError, match="minors"):
        ContentConfig.model_validate({"minors": "take"})


def test_the_words_can_be_changed() -> None:
    assert refusal(listing(tags=["politics"]), real_people_tags=("politics",)) != ""
    assert refusal(listing(tags=["celebrity"]), real_people_words=()) == ""
    assert refusal(listing(name="Celebrity cruise"), innocent=("celebrity cruise",)) == ""


@pytest.mark.parametrize(("tag", "what"), [("celebrity", REAL), ("nsfw", EXPLICIT)])
def test_pages_of_other_hubs_are_held_to_the_same_rule(tag: str, what: str) -> None:
    item: dict[str, Any] = {"id": "maker/night", "sha": "a" * 40, "tags": [tag]}
    item["cardData"] = {"license": "mit", "base_model": BASE}
    item["siblings"] = [{"rfilename": "a.safetensors"}]
    found = parse_repository(item, "", "adapter", [BASE], "https://h")
    assert what in str(examine(found, get_family("sd15")))
    item |= {"tags": [], "disabled": True}
    found = parse_repository(item, "", "adapter", [], "https://h")
    assert found.withdrawn == "disabled"


def test_pages_that_say_nothing_new_keep_their_hash() -> None:
    page = listing()
    assert page_hash(page) == page_hash(page.model_copy(update={"minor": False, "withdrawn": ""}))
    assert page_hash(page) != page_hash(page.model_copy(update={"minor": True}))
