"""What is read of pages in the manner of real ones, of which no sentence is copied."""

# ruff: noqa: RUF001  (the punctuation of Chinese pages)

import pytest

from diffgraph.agents import OfflineAgent
from diffgraph.agents.boilerplate import is_boilerplate
from diffgraph.agents.injections import is_injection
from diffgraph.agents.markup import LONGEST_TEXT, lines_and_links, page_lines
from diffgraph.agents.nouns import Nouns
from diffgraph.agents.pages import descriptive_sentences, tidy
from diffgraph.agents.titles import readable_name
from diffgraph.experts.expert import ExpertRef, ListedFile, ListedImage, Listing
from diffgraph.families.vocabulary import everyday_nouns


def told(html: str) -> list[str]:
    return [sentence.text for sentence in descriptive_sentences(html, Nouns(everyday_nouns()))]


def listing(**changes: object) -> Listing:
    fields = {"ref": ExpertRef(source="hub", model="1", version="1"), "name": "Harbour"} | changes
    return Listing.model_validate({"type": "LORA"} | fields)


@pytest.mark.parametrize(
    "noise",
    [
        "If you like my work you can buy me a coffee.",
        "Join my Discord and leave a review!",
        "Trained on 84 images for 3000 steps.",
        "Put the file into models/Lora and restart the UI.",
        "Best at a weight of 0.6-0.8.",
        "CFG 7, DPM++ 2M Karras, clip skip 2",
        "Negative prompt: lowres, bad anatomy",
        "(worst quality:1.4), (low quality:1.2)",
        "This is a merge of several checkpoints.",
        "Please post your pictures, I would love to see them!",
        "v2.1 fixes the colours.",
        "What do you think?",
        "Goes well with other LoRAs.",
        "Guidance of 7 - 11.",
        "Recommended settings:",
        "请在评论中告诉我。",
        "触发词：harbour",
    ],
)
def test_talk_of_money_files_and_settings_is_left_out(noise):
    assert is_boilerplate(noise)
    assert told(f"<p>Draws wooden boats in a misty harbour.</p><p>{noise}</p>") == [
        "Draws wooden boats in a misty harbour."
    ]


@pytest.mark.parametrize(
    "sentence",
    [
        "Turns any portrait into a copper engraving",
        "It gives night scenes a cold blue light",
        "A mix of photography and watercolour painting",
        "Inverts all colours like a film negative",
        "Detailed hands and eyes, soft skin texture",
        "Motorräder und alte Autos im Stil der Fünfziger",
        "水墨风格的山水画，云雾缭绕",
        "Персонаж в стиле советского плаката",
    ],
)
def test_what_can_be_seen_is_told(sentence):
    assert told(f"<p>{sentence}</p>") == [tidy(sentence)]


def test_what_tells_little_is_told_if_there_is_nothing_else():
    assert told("<p>Hi there!</p><p>Old brass things.</p>") == ["Old brass things."]
    assert told("<p>Hi there!</p><p>Old brass things. A ship of brass.</p>") == ["A ship of brass."]


def test_the_most_telling_sentences_are_kept_in_the_order_of_the_page():
    filler = "It has a certain something about it that many seem to find agreeable of late. " * 9
    page = f"<p>{filler}</p><p>Neon signs and wet streets at night.</p><p>Rain, fog and smoke.</p>"
    summary = OfflineAgent().describe(listing(description=page)).summary
    assert summary.index("Neon signs") < summary.index("Rain, fog")
    assert len(summary) < 400


def test_a_line_that_only_links_elsewhere_is_not_this_expert():
    page = '<p><a href="/m/2">My Dragon Style</a></p><p>Boats, by <a href="/u">me</a></p>'
    assert list(lines_and_links(page)) == [("My Dragon Style", True), ("Boats, by me", False)]
    assert "Dragon" not in OfflineAgent().describe(listing(description=page)).text


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("harbourLoRA_v12 v1.2", "harbour"),
        ("OldHarbour_v2.safetensors", "Old Harbour"),
        ("Old Harbour Old Harbour V3 fp16 pruned", "Old Harbour"),
        ("Harbour [LoCon] SD 1.5", "Harbour"),
        ("24 Karat", "24 Karat"),
        ("v2", "v2"),
        ("港口 harbour_lora", "港口 harbour"),
        ("⚡ Storm ⚡ 1.0", "Storm"),
        ("<b>Storm</b> {{7*7}}", "Storm"),
    ],
)
def test_titles_lose_versions_and_formats(name, title):
    assert readable_name(name) == title


def test_tags_and_triggers_that_describe_nothing_are_no_skills():
    card = OfflineAgent().describe(
        listing(
            tags=("style", "masterpiece", "high resolution", "ships", "celebrity"),
            trigger_words=("h4rb0ur", "best quality", "wooden_boat", "<lora:harbour:0.8>"),
        )
    )
    assert card.skills == ("wooden boat", "ships")
    assert card.trigger_words == ("h4rb0ur", "best quality", "wooden_boat")


def test_one_example_proves_no_skill_where_the_page_describes():
    images = [ListedImage(url="a", prompt="a pier, red umbrella, seagulls")]
    page = listing(description="<p>Wooden boats in a misty harbour.</p>", images=images)
    assert OfflineAgent().describe(page).skills == ()
    assert "red umbrella" in OfflineAgent().describe(listing(images=images)).skills


@pytest.mark.parametrize(
    ("kind", "prompt", "strength"),
    [
        ("LORA", "a pier <lora:old_harbour_v2:0.6> <lora:detail:1.4>", 0.6),
        ("LORA", "a pier <lora:xyz:0.7>", 0.7),
        ("LORA", "a pier <lora:one:0.7> <lora:two:0.3>", None),
        ("Checkpoint", "a pier <lora:noise:1.3>", None),
    ],
)
def test_a_strength_is_read_from_the_tag_of_this_very_expert(kind, prompt, strength):
    page = listing(
        type=kind,
        file=ListedFile(name="OldHarbour_v2.safetensors", url="x"),
        images=[ListedImage(url="a", prompt=prompt)],
    )
    assert OfflineAgent().describe(page).recommended_strength == strength


HIDDEN = [
    "<p style='display: none'>hidden</p>",
    "<p style='DISPLAY:/* */NONE'>hidden</p>",
    "<p style='font-size:0'>hidden</p>",
    "<p style='font-size: 0.0em !important; color: red'>hidden</p>",
    "<p style='font: 0/0 a'>hidden</p>",
    "<p style='opacity:0.0'>hidden</p>",
    "<p style='position:fixed;top:-5000px'>hidden</p>",
    "<p style='height:0;overflow:hidden'>hidden</p>",
    "<p style='clip-path: inset(100%)'>hidden</p>",
    "<p style='transform: scale(0)'>hidden</p>",
    "<details hidden>hidden</details>",
    "<!-- hidden -->",
    "<template>hidden</template>",
    "<script>hidden</script>",
    "<textarea>hidden</textarea>",
    "<div style='visibility:hidden'><b><i>hidden</i></b></div>",
]


@pytest.mark.parametrize("markup", HIDDEN)
def test_what_a_browser_would_not_show_is_not_read(markup):
    assert page_lines(f"<p>one</p>{markup}<p>two</p>") == ("one", "two")


@pytest.mark.parametrize(
    "style", ["font-size:0.9em", "font-size:10px", "opacity:0.8", "color:#000", "width:100%"]
)
def test_what_a_browser_would_show_is_read(style):
    assert page_lines(f"<p style='{style}'>seen</p>") == ("seen",)


def test_blocks_are_lines_and_long_pages_are_cut():
    assert page_lines("<ul><li>a<li>b</ul>c<br>d<p>e") == ("a", "b", "c", "d", "e")
    assert len("".join(page_lines("<p>word </p>" * 20_000))) <= LONGEST_TEXT


@pytest.mark.parametrize(
    "harmless",
    [
        "A system of pipes and valves",
        "The user interface of a spaceship, glowing",
        "You are going to love these dragons",
        "She has to choose between two doors",
        "An agent in a dark coat",
        "Instructions on an old map",
        "A woodblock print with strong lines",
        "Portraits set with flowers, in this painter's manner",
        "Turns everything into AI art that will remind you of tapestries",
        "Shows a secret garden behind a wall",
    ],
)
def test_harmless_sentences_are_no_orders(harmless):
    assert not is_injection(harmless)
