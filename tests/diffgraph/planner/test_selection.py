from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from diffgraph.agents import Candidate, OfflineAgent, Verdict
from diffgraph.agents.prompts import tagged
from diffgraph.crawlers.folder import FolderCrawler
from diffgraph.experts.expert import Kind, Listing
from diffgraph.families.emoji64 import ASSETS
from diffgraph.graph.embedding import TextEmbedder
from diffgraph.planner.retrieval import ExpertIndex
from diffgraph.planner.selection import Selection, SelectionConfig, rank, select
from recipes.emoji64.community import COMMUNITY, Recipe
from recipes.emoji64.hub import write_hub


@dataclass
class Nodes:
    """Experts as a snapshot offers them."""

    refs: Sequence[str]
    kinds: Sequence[Kind]
    names: Sequence[str]
    trigger_words: Sequence[Sequence[str]]
    texts: Sequence[str]
    embeddings: np.ndarray


@pytest.fixture(scope="module")
def embedder():
    return TextEmbedder()


def nodes_of(embedder: TextEmbedder, *experts: tuple[str, str, Kind]) -> Nodes:
    names = [name for name, _, _ in experts]
    texts = [f"{name}. {text}" for name, text, _ in experts]
    refs = [f"hub:{number}@1" for number in range(len(experts))]
    kinds, triggers = [kind for _, _, kind in experts], [()] * len(experts)
    return Nodes(refs, kinds, names, triggers, texts, embedder.embed(texts))


@pytest.fixture(scope="module")
def shelf(embedder):
    return nodes_of(
        embedder,
        ("Animals", "dogs, cats and wild animals with clean fur", "checkpoint"),
        ("Cars", "vehicles: cars, trains and planes", "checkpoint"),
        ("Pencil Sketch", "grey graphite lines on white paper, pencil sketch", "peft"),
        ("Nightfall", "turns day into a moonlit night scene", "peft"),
        ("Moonlit", "night scene in the moonlight", "peft"),
        ("Flamingo", "pink feathers", "peft"),
    )


def names(selection: Selection) -> list[str]:
    return [expert.name for expert in selection.experts]


class TestSelect:
    def test_finds_a_checkpoint_for_the_subject_and_an_expert_for_each_attribute(
        self, shelf, embedder
    ):
        chosen = select("a poodle, pencil sketch, at night", shelf, OfflineAgent(), embedder)
        assert names(chosen) == ["Animals", "Pencil Sketch", "Nightfall"]
        assert [expert.kind for expert in chosen.experts] == ["checkpoint", "peft", "peft"]
        assert chosen.summary == "poodle, pencil sketch"
        assert chosen.attributes == ("pencil sketch", "night")

    def test_may_choose_none(self, shelf, embedder):
        chosen = select("a mushroom", shelf, OfflineAgent(), embedder)
        assert chosen.refs == ()
        assert any("base model draws alone" in line for line in chosen.lines())

    def test_says_why_each_was_chosen_or_dropped(self, shelf, embedder):
        chosen = select("a dog at night", shelf, OfflineAgent(), embedder)
        assert "Moonlit" in [choice.name for choice in chosen.dropped]
        assert all(choice.reason for choice in (*chosen.experts, *chosen.dropped))
        assert not set(chosen.refs) & {choice.ref for choice in chosen.dropped}
        explanation = "\n".join(chosen.lines())
        assert "+ Nightfall" in explanation
        assert "- Moonlit" in explanation

    def test_whom_calibration_proved_bad_is_dropped_and_the_next_best_serves(self, shelf, embedder):
        fair = select("a dog at night", shelf, OfflineAgent(), embedder)
        best = next(choice for choice in fair.experts if choice.name == "Nightfall")
        proof = {best.ref: "worse than the base on 47 of 48 reference prompts"}
        chosen = select("a dog at night", shelf, OfflineAgent(), embedder, exclusions=proof)
        assert best.ref not in chosen.refs
        assert "Moonlit" in names(chosen)
        dropped = {choice.ref: choice.reason for choice in chosen.dropped}
        assert dropped[best.ref] == proof[best.ref]

    def test_says_when_another_agent_read_the_prompt_than_was_asked(self, shelf, embedder):
        class Fallen(OfflineAgent):
            def parse(self, prompt):
                return super().parse(prompt).model_copy(update={"note": "offline agent instead"})

        assert "read by the offline agent instead" in (
            select("a dog at night", shelf, Fallen(), embedder).lines()
        )

    def test_is_kept_as_json(self, shelf, embedder):
        chosen = select("a dog at night", shelf, OfflineAgent(), embedder)
        assert Selection.model_validate_json(chosen.model_dump_json()) == chosen

    def test_k1_and_k2_bound_the_candidates(self, shelf, embedder):
        config = SelectionConfig(k1=1, k2=2, k3=0)
        found = select("a dog, pencil sketch, at night", shelf, OfflineAgent(), embedder, config)
        kinds = [candidate.kind for candidate in found.candidates]
        assert (kinds.count("checkpoint"), kinds.count("peft")) == (1, 4)

    def test_an_expert_for_the_subject_itself_is_found_for_the_whole_prompt(self, embedder):
        nodes = replace(
            nodes_of(
                embedder,
                ("Mika the Knight", "a heroine of a game", "peft"),
                ("Armour", "steel plates", "peft"),
                ("Blue Hair", "hair in blue", "peft"),
            ),
            trigger_words=[("mk_knight",), (), ()],
        )
        prompt = "mk_knight, at night"
        assert names(select(prompt, nodes, OfflineAgent(), embedder)) == ["Mika the Knight"]
        without = SelectionConfig(k3=0)
        assert names(select(prompt, nodes, OfflineAgent(), embedder, without)) == []

    def test_at_most_so_many_are_chosen_the_best(self, shelf, embedder):
        prompt = "a poodle, pencil sketch, at night"
        few = SelectionConfig(most=2)
        chosen = select(prompt, shelf, OfflineAgent(), embedder, few)
        every = select(prompt, shelf, OfflineAgent(), embedder)
        best = sorted(every.experts, key=lambda choice: -choice.similarity)[:2]
        assert set(chosen.refs) == {choice.ref for choice in best}
        assert "others fit better" in " ".join(choice.reason for choice in chosen.dropped)

    def test_no_experts_no_selection(self, embedder):
        empty = Nodes([], [], [], [], [], np.zeros((0, 384), dtype=np.float32))
        assert select("a dog at night", empty, OfflineAgent(), embedder).refs == ()

    def test_does_not_depend_on_the_order_of_the_experts(self, shelf, embedder):
        order = [3, 0, 5, 2, 4, 1]
        mixed = Nodes(
            *(
                [column[i] for i in order]
                for column in (
                    shelf.refs,
                    shelf.kinds,
                    shelf.names,
                    shelf.trigger_words,
                    shelf.texts,
                )
            ),
            shelf.embeddings[order],
        )
        prompt = "a dog, pencil sketch, at night"
        assert (
            select(prompt, mixed, OfflineAgent(), embedder).experts
            == select(prompt, shelf, OfflineAgent(), embedder).experts
        )


class Unruly(OfflineAgent):
    """Names experts it was not shown, forgets others, judges out of order."""

    def review(self, request, candidates: Sequence[Candidate]):
        night = next(c for c in candidates if c.name == "Nightfall")
        return (
            Verdict(ref="evil:1@1", kept=True, reason="I like it"),
            Verdict(ref=night.ref, kept=True, reason="dark"),
        )


def test_an_agent_may_only_choose_what_it_was_shown(shelf, embedder):
    chosen = select("a dog at night", shelf, Unruly(), embedder)
    assert names(chosen) == ["Nightfall"]
    assert {choice.reason for choice in chosen.dropped} == {"the agent gave no verdict"}


class TestExpertIndex:
    def test_overlap_is_the_share_of_words_rare_ones_first(self, shelf):
        overlap = ExpertIndex(shelf).overlap("pencil night")
        assert overlap[2] > 0.4  # pencil, said twice
        assert overlap[3] > 0
        assert overlap[2] > overlap[3]  # night is said by two experts
        assert overlap[5] == 0

    def test_shared_words_add_to_the_cosine_and_never_pass_one(self, shelf, embedder):
        queries = ["pencil sketch", "night"]
        index = ExpertIndex(shelf)
        cosines = index.cosines(embedder.embed(queries))
        plain, _ = index.similarities(queries, cosines, 0.0)
        with_words, shares = index.similarities(queries, cosines, 0.6)
        np.testing.assert_allclose(
            plain, np.clip(embedder.embed(queries) @ shelf.embeddings.T, 0, 1), atol=1e-6
        )
        assert (with_words >= plain - 1e-6).all()
        assert with_words.max() <= 1.0
        assert shares[0].tolist() == [False, False, True, False, False, False]

    def test_rare_words_decide_in_a_long_prompt(self, embedder):
        crowd = [(f"Crowd {n}", "smile, hat, dress, blue sky, long hair", "peft") for n in range(9)]
        nodes = replace(
            nodes_of(embedder, *crowd, ("Zorblax", "an alien", "checkpoint")),
            trigger_words=[()] * 9 + [("zrblx style",)],
        )
        prompt = "best quality, smile, long hair, blue sky, dress, hat, zrblx style, solo"
        assert rank(prompt, nodes, OfflineAgent(), embedder, 3)[0] == "hub:9@1"
        assert len(rank(prompt, nodes, OfflineAgent(), embedder, 3)) == 3
        assert rank(prompt, nodes, OfflineAgent(), embedder, 0) == ()

    def test_a_trigger_word_tells_the_more_the_fewer_have_it(self, embedder):
        nodes = replace(
            nodes_of(embedder, *((f"Expert {n}", "a style", "peft") for n in range(4))),
            trigger_words=[("evang",), ("evang, neon glow",), ("glow",), ()],
        )
        told = ExpertIndex(nodes).addressed("a cat, Evang, NEON glow")
        assert told[1] == pytest.approx(1.0)
        assert 0 < told[0] < told[2] <= 1
        assert told[3] == 0
        assert not ExpertIndex(nodes).addressed("evangelist in neon").any()

    def test_a_tag_names_its_expert(self, embedder):
        nodes = nodes_of(
            embedder, ("Mountains", "red mountains", "peft"), ("Reuben Wu style", "", "peft")
        )
        prompt = "<lora:ReubenWu_v1:1> red mountains"
        assert set(rank(prompt, nodes, OfflineAgent(), embedder, 2)) == {"hub:0@1", "hub:1@1"}
        assert ExpertIndex(nodes).evidence("ReubenWu v1")[1] > 0
        assert tagged(prompt) == ("ReubenWu v1",)
        assert tagged("a cat, <lora:x") == ("x",)
        assert tagged("a cat < dog: 3 > 2") == ()

    def test_reads_names_written_without_spaces(self, embedder):
        index = ExpertIndex(nodes_of(embedder, ("NeonKnights", "", "peft"), ("Neo", "", "peft")))
        assert index.evidence("a neon sign")[0] > 0
        assert index.evidence("neonknights")[0] > 0
        assert index.evidence("a neon sign")[1] == 0

    def test_nearest_keeps_to_one_kind_best_first(self, shelf):
        index = ExpertIndex(shelf)
        similarity = np.array([0.9, 0.1, 0.5, 0.7, 0.7, 0.2], dtype=np.float32)
        assert index.nearest("peft", similarity, 3) == [3, 4, 2]  # ties by reference
        assert index.nearest("checkpoint", similarity, 5) == [0, 1]
        assert index.nearest("peft", similarity, 0) == []

    def test_refuses_embeddings_of_other_experts(self, shelf):
        with pytest.raises(ValueError, match="6 experts"):
            ExpertIndex(replace(shelf, embeddings=shelf.embeddings[:3]))


@pytest.fixture(scope="module")
def community(embedder, tmp_path_factory):
    """The newest version of every expert of emoji64, described from its page."""
    weights = tmp_path_factory.mktemp("weights")
    for recipe in COMMUNITY:
        (weights / f"{recipe.slug}.safetensors").write_bytes(recipe.slug.encode())
    hub = write_hub(weights, tmp_path_factory.mktemp("hub") / "hub")
    recipes = newest_recipes()
    listings = [
        page
        for page in FolderCrawler(hub).listings()
        if isinstance(page, Listing) and str(page.ref) in recipes
    ]
    refs = [str(page.ref) for page in listings]
    texts = [OfflineAgent().describe(page).text for page in listings]
    return Nodes(
        refs,
        [recipes[ref].kind for ref in refs],
        [page.name for page in listings],
        [page.trigger_words for page in listings],
        texts,
        embedder.embed(texts),
    )


def newest_recipes() -> dict[str, Recipe]:
    older = {recipe.supersedes for recipe in COMMUNITY}
    return {recipe.ref: recipe for recipe in COMMUNITY if recipe.slug not in older}


def test_finds_the_experts_that_training_prompts_were_composed_from(community, embedder):
    """Nine prompts in ten are served whole, with few others; a twin of an expert will do."""
    recipes = newest_recipes()

    def skills(ref: str) -> set[str]:
        recipe = recipes[ref]
        return {*recipe.treatments, *recipe.groups, *recipe.styles}

    rows = pq.read_table(ASSETS / "prompts" / "train.parquet").to_pylist()[::10]
    served, others = [], []
    for row in rows:
        chosen = set(select(row["prompt"], community, OfflineAgent(), embedder).refs)
        twins = chosen & set(row["also"])
        wanted = {ref for ref in row["experts"] if ref in recipes}
        missing = {
            ref for ref in wanted - chosen if not any(skills(ref) & skills(twin) for twin in twins)
        }
        served.append(not missing)
        others.append(len(chosen - wanted))
    assert np.mean(served) >= 0.9
    assert np.mean(others) <= 2


def test_every_expert_that_does_what_it_says_can_be_found(community, embedder):
    """By the words of its own page's examples."""
    recipes = newest_recipes()
    for recipe in recipes.values():
        if recipe.kind == "checkpoint" or recipe.quality != "good":
            continue
        phrase = recipe.treatments[0].replace("_", " ")
        found = select(f"a cat, {phrase}", community, OfflineAgent(), embedder)
        assert recipe.ref in {candidate.ref for candidate in found.candidates}, phrase
