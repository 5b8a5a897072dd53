"""The README.md of a merged folder."""

from dataclasses import replace

from diffgraph.experts.expert import NOT_KNOWN, Licence
from diffgraph.merging.model_card import model_card
from diffgraph.merging.sources import BaseSource
from tests.merge_sources import sources

HOSTILE = "Ink | <script>x</script> [a](http://b)\n---\n# `b` \u202e"


def test_it_says_what_is_in_it_and_what_is_owed() -> None:
    given = sources(a=0.8, m=0.5)
    licences = {
        "h:a@1": Licence(credit_required=True, creator="somebody", name="CC-BY-4.0"),
        "h:m@1": Licence(name=NOT_KNOWN),
    }
    experts = {
        ref: row.model_copy(update={"licence": licences[ref]}) for ref, row in given.experts.items()
    }
    base = BaseSource("stable-diffusion-v1-5", "owner/stable-diffusion-v1-5")
    card = model_card(replace(given, experts=experts, base=base), "float16")
    rows = [line.split(" | ") for line in card.splitlines() if line.startswith("| 0.")]
    assert [row[0] for row in rows] == ["| 0.5", "| 0.8"]
    assert '\nbase_model: "owner/stable-diffusion-v1-5"\n' in card
    assert "- credit a (h:a@1) by somebody\n" in card
    assert "- ask the maker of m (h:m@1) before sharing: its licence is not known\n" in card


def test_what_strangers_wrote_stays_text() -> None:
    given = sources(a=0.8)
    row = given.experts["h:a@1"]
    licence = Licence(creator=HOSTILE, name=HOSTILE, credit_required=True)
    expert = row.model_copy(update={"name": HOSTILE, "licence": licence, "page_url": HOSTILE})
    plain = model_card(given, "float16")
    card = model_card(replace(given, experts={"h:a@1": expert}), "float16")
    assert "<script" not in card
    assert "](" not in card.replace(r"\](", "")
    assert "\u202e" not in card
    assert card.count("\n---\n") == plain.count("\n---\n")
    assert card.count("\n# ") == plain.count("\n# ")
    (line,) = [line for line in card.splitlines() if line.startswith("| 0.8")]
    assert line.replace(r"\|", "").count("|") == 8
