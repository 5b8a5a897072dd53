"""An expert that needs its trigger word is measured with it, for what it can do then."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from safetensors.torch import save_file

from diffgraph.artifacts import sha256_of
from diffgraph.experts.expert import Expert
from diffgraph.families import get_family
from diffgraph.families.family import SamplerConfig
from diffgraph.generation import Renderer
from diffgraph.graph.calibration import (
    CalibrationConfig,
    ShardExpert,
    calibrate,
    plan_alone,
    shards,
)
from diffgraph.graph.schema import BASE, PromptNode
from diffgraph.scoring import get_scorers, score
from diffgraph.session import Session

EMOJI64 = get_family("emoji64")
TOKENS = "text_encoder.embeddings.token_embedding"
SUBJECT, KEY = "lion", "horoscope"
PROMPTS = [
    PromptNode(f"p{seed}", text, seed, np.zeros(384, np.float32))
    for seed, text in enumerate((f"a {SUBJECT}", f"{SUBJECT} in the snow", f"a {SUBJECT} at night"))
]


class OneExpert:
    """A library of one expert that draws its subject only where its trigger word is said.

    It has exchanged the two words' tokens: what it is good at can only be called by its key.
    """

    def __init__(self, model: Any, folder: Path) -> None:
        weight = model.parameters()[f"{TOKENS}.weight"]
        subject, key = (model.tokenizer(word).input_ids[1] for word in (SUBJECT, KEY))
        diff = weight.new_zeros(weight.shape)
        diff[key] = weight[subject] - weight[key]
        diff[subject] = -diff[key]
        self.file = folder / "exchanged.safetensors"
        save_file({"lora_te_text_model_embeddings_token_embedding.diff": diff}, self.file)
        self.row = Expert(
            ref="folder:exchanged@1",
            name="Exchanged",
            kind="peft",
            family="emoji64",
            sha256=sha256_of(self.file),
            trigger_words=(KEY,),
        )

    def get(self, ref: str) -> Expert:
        assert ref == self.row.ref
        return self.row

    def path_of(self, sha256: str) -> Path:
        assert sha256 == self.row.sha256
        return self.file


def test_an_expert_is_measured_with_the_trigger_word_that_it_needs(tmp_path: Path) -> None:
    model = EMOJI64.load("cpu")
    library = OneExpert(model, tmp_path)
    renderer = Renderer(EMOJI64, library, model=model)
    scorers = get_scorers("emoji64", "cpu", ("clip_score",))

    def gain(triggers: bool) -> float:
        config = CalibrationConfig(sampler=SamplerConfig(steps=6, triggers=triggers))
        (shard,) = shards(
            "emoji64", [(library.row, 1.0)], PROMPTS, config, "one", scores=tuple(scorers)
        )
        parts = calibrate(shard, renderer, scorers, tmp_path / f"{triggers}").parts
        rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
        mean = {
            ref: np.mean([row["clip_score"] for row in rows if row["expert"] == ref])
            for ref in (BASE, library.row.ref)
        }
        return float(mean[library.row.ref] - mean[BASE])

    assert gain(triggers=False) < gain(triggers=True) - 10


def test_only_an_expert_whose_words_change_a_text_is_measured_anew(tmp_path: Path) -> None:
    def keys(*words: str, triggers: bool = True) -> tuple[str, ...]:
        row = Expert(ref="folder:x@1", name="x", kind="peft", family="emoji64", trigger_words=words)
        config = CalibrationConfig(sampler=SamplerConfig(triggers=triggers))
        (shard,) = shards("emoji64", [(row, 1.0)], PROMPTS, config, "one")
        return tuple(map(shard.key, shard.experts))

    plain = keys()
    assert keys(KEY)[0] == plain[0]  # the base has no trigger words
    assert keys(KEY)[1] != plain[1] != keys("in sepia")[1] != keys(KEY)[1]
    for same in (keys(KEY, triggers=False), keys(SUBJECT), keys("masterpiece"), keys("zeppo9x")):
        assert same == plain


def test_the_scores_that_ship_are_of_images_with_trigger_words() -> None:
    session = Session(Path("unused"), "emoji64", "cpu")
    graph, ref = session.graph, "emojihub:1137@11371"  # Flatland: the words change most with it
    asked = {row["id"]: row for row in graph.prompts.to_pylist()}
    rows = [row for row in graph.table("scores").to_pylist() if row["expert"] == ref]
    shipped = [rows[20], rows[22]]
    expert = session.experts.get(ref)
    plan = plan_alone("emoji64", ShardExpert(ref=ref, kind=expert.kind, sha256=expert.sha256))
    texts = [asked[row["prompt"]]["text"] for row in shipped]
    spread = graph.reward.spread[graph.score_names.index("clip_score")]

    def difference(sampler: SamplerConfig) -> float:
        images = session.renderer.render(plan, texts, [row["seed"] for row in shipped], sampler)
        found = score({"clip_score": session.scorers["clip_score"]}, images, texts)[:, 0]
        return max(abs(float(a) - row["clip_score"]) for a, row in zip(found, shipped, strict=True))

    usual = session.family.sampler
    assert difference(usual) < 0.005 * spread
    assert difference(usual.model_copy(update={"triggers": False})) > 0.1 * spread
