"""Rows fit their tables, whatever is known of an expert."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from diffgraph.experts.card import ExpertCard
from diffgraph.experts.coverage import CoverageReport
from diffgraph.experts.expert import Expert, ExpertRef, Licence
from diffgraph.graph.contents import as_current
from diffgraph.graph.reference_prompts import ReferencePrompt
from diffgraph.graph.schema import BASE, COVERAGE, NODES, PROMPTS, SCORES, ExpertNode, PromptNode
from diffgraph.scoring.reward import SCORE_NAMES

VECTOR = np.full(384, 384**-0.5, dtype=np.float32)
EXPERT = Expert(
    ref="civitai:1@2",
    name="A <b>name</b>",
    kind="peft",
    family="emoji64",
    licence=Licence(allow_derivatives=False, name="CC-BY-NC", creator="somebody"),
    published_at=datetime(2024, 5, 6, 7, tzinfo=UTC),
)


def test_a_described_expert_keeps_all_that_is_known() -> None:
    card = ExpertCard(
        summary="Draws snow.",
        skills=("snow", "ice"),
        trigger_words=("snowy",),
        recommended_strength=0.7,
        agent="offline",
        instruction_version="1",
    )
    table = pa.Table.from_pylist([ExpertNode(EXPERT, card, VECTOR).row()], schema=NODES)
    (row,) = table.to_pylist()
    assert row["text"] == "Draws snow. snow, ice"
    assert row["recommended_strength"] == 0.7
    assert row["allow_derivatives"] is False
    assert (row["licence"], row["creator"]) == ("CC-BY-NC", "somebody")
    assert row["trigger_words"] == ["snowy"]
    assert row["published_at"] == EXPERT.published_at
    assert row["name"] == "A <b>name</b>"  # as it came: whoever shows it escapes it


def test_an_expert_that_nobody_described_fits_too() -> None:
    (row,) = pa.Table.from_pylist([ExpertNode(EXPERT).row()], schema=NODES).to_pylist()
    assert row["agent"] == row["text"] == ""
    assert set(row["embedding"]) == {0.0}


def test_a_reference_prompt_keeps_its_features() -> None:
    prompt = ReferencePrompt(id="r1", text="a cat", seed=3, features={"nouns": 1.0, "rank": 0.5})
    (row,) = pa.Table.from_pylist([PromptNode.of(prompt, VECTOR).row()], PROMPTS).to_pylist()
    assert dict(row["features"]) == {"nouns": 1.0, "rank": 0.5}
    assert (row["id"], row["seed"]) == ("r1", 3)


def test_scores_are_five_in_their_order() -> None:
    assert tuple(SCORES.names) == ("expert", "prompt", "seed", *SCORE_NAMES)


def test_the_base_can_be_no_experts_name() -> None:
    with pytest.raises(ValueError, match="not an expert reference"):
        ExpertRef.parse(BASE)


@pytest.mark.parametrize("wrong", [np.ones(383), np.full(384, np.nan), np.ones((1, 384))])
def test_a_wrong_embedding_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="384 finite numbers"):
        PromptNode("r1", "a cat", 3, wrong).row()


def test_how_well_a_file_was_understood_is_kept() -> None:
    report = CoverageReport(matched=9, unknown=1, norms={"unet.mid_block": 0.5}, evidence=("x=y",))
    known = EXPERT.model_copy(update={"coverage": report})
    rows = [ExpertNode(known).row(), ExpertNode(EXPERT).row()]
    read, unread = pa.Table.from_pylist(rows, schema=NODES).to_pylist()
    assert (read["keys_matched"], read["keys_unknown"], read["non_finite"]) == (9, 1, 0)
    assert dict(read["norms"]) == {"unet.mid_block": 0.5}
    assert read["evidence"] == ["x=y"]
    assert (unread["keys_matched"], unread["norms"], unread["evidence"]) == (0, [], [])


def test_a_table_of_version_1_is_read_as_if_nobody_had_looked() -> None:
    table = pa.Table.from_pylist([ExpertNode(EXPERT).row()], schema=NODES)
    old = table.drop_columns([column.name for column in COVERAGE])
    assert as_current(old, 1).equals(table)
    assert as_current(table, 2) is table
    assert as_current(old.drop_columns(["ref"]), 1).num_columns < table.num_columns
