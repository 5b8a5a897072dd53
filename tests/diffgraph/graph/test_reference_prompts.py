import itertools

import numpy as np
import pytest

from diffgraph.errors import InputError
from diffgraph.graph import reference_prompts
from diffgraph.graph.embedding import TextEmbedder
from diffgraph.graph.parts_of_speech import tag
from diffgraph.graph.reference_prompts import choose, rank

SUBJECTS = ("dog", "smiling robot", "red apple", "old house", "rocket", "happy cat", "owl", "ghost")
PARTS = ("pencil sketch", "at night", "in the snow", "on a striped background", "under the sea")
CANDIDATES = [f"a {subject}" for subject in SUBJECTS] + [
    f"a {subject}, {first}, {second}"
    for subject in SUBJECTS
    for first, second in itertools.combinations(PARTS, 2)
]


@pytest.fixture(scope="module")
def embedder():
    return TextEmbedder()


@pytest.mark.parametrize(
    ("text", "nouns", "adjectives", "prepositions"),
    [
        ("a happy dog in the snow", {"dog", "snow"}, {"hap"}, {"in"}),
        ("smiling robot under a striped umbrella", {"robot", "umbrella"}, None, {"under"}),
        ("a cat", {"cat"}, set(), set()),
        ("colourful wings of a beautiful bird", None, {"colorful", "beautiful"}, {"of"}),
        ("12 of the", set(), set(), {"of"}),
        ("", set(), set(), set()),
    ],
)
def test_tells_nouns_adjectives_and_prepositions(text, nouns, adjectives, prepositions):
    tagged = tag(text)
    if nouns is not None:
        assert tagged.nouns == nouns
    if adjectives is not None:
        assert {word[:3] for word in tagged.adjectives} == {word[:3] for word in adjectives}
    assert tagged.prepositions == prepositions


def test_a_spatial_preposition_counts_twice():
    assert tag("a cat under a tree").features["prepositions"] == 2
    assert tag("a cat without a tree").features["prepositions"] == 1


def test_ranks_rich_language_above_poor_of_the_same_length():
    tags = [tag("a small red dog behind an old house"), tag("a dog and a dog and a dog a")]
    tags += [tag(text) for text in CANDIDATES]
    ranks = rank([tagged.features for tagged in tags])
    assert ranks[0] > ranks[1]


def test_repeating_words_earns_nothing():
    tags = [tag("red dog near house " * 1), tag("red dog near house " * 8)]
    tags += [tag(text) for text in CANDIDATES]
    ranks = rank([tagged.features for tagged in tags])
    assert ranks[0] > ranks[1]


def test_is_deterministic_and_does_not_depend_on_repeats(embedder):
    first = choose(CANDIDATES, 10, embedder=embedder)
    assert first == choose([*CANDIDATES, *CANDIDATES[:7]], 10, embedder=embedder)
    assert len({prompt.id for prompt in first}) == 10


def test_seeds_follow_the_seed_and_differ_between_prompts(embedder):
    first = choose(CANDIDATES, 8, embedder=embedder)
    other = choose(CANDIDATES, 8, seed=1, embedder=embedder)
    assert [p.text for p in first] == [p.text for p in other]
    assert [p.seed for p in first] != [p.seed for p in other]
    assert len({p.seed for p in first}) == 8


def test_covers_the_subjects_and_the_treatments(embedder):
    texts = " ".join(prompt.text for prompt in choose(CANDIDATES, 16, embedder=embedder))
    assert all(subject in texts for subject in SUBJECTS)
    assert all(part in texts for part in PARTS)


def test_covers_more_words_than_chance(embedder):
    def covered(texts):
        return len({term for text in texts for term in tag(text).terms})

    chosen = covered([prompt.text for prompt in choose(CANDIDATES, 6, embedder=embedder)])
    rng = np.random.default_rng(0)
    by_chance = [covered(rng.choice(CANDIDATES, 6, replace=False)) for _ in range(200)]
    assert chosen > np.quantile(by_chance, 0.95)


def test_leaves_out_what_is_excluded_however_it_is_written(embedder):
    chosen = {prompt.text for prompt in choose(CANDIDATES, 10, embedder=embedder)}
    again = choose(
        CANDIDATES, 10, exclude=[f" {text.upper()}!" for text in chosen], embedder=embedder
    )
    assert len(again) == 10
    assert not chosen & {prompt.text for prompt in again}


def test_fewer_candidates_than_wanted_are_all_returned(embedder):
    assert len(choose(["a red dog", "an old ship at sea"], 5, embedder=embedder)) == 2


@pytest.mark.parametrize("candidates", [[], ["cat"], ["", " \x00 "], ["word " * 200]])
def test_refuses_candidates_of_which_none_is_usable(candidates):
    with pytest.raises(InputError, match="usable"):
        choose(candidates, 3)


def test_an_iterator_of_candidates_will_do(embedder):
    assert choose(iter(CANDIDATES), 5, embedder=embedder) == choose(
        CANDIDATES, 5, embedder=embedder
    )


def test_of_very_many_a_fair_sample_of_the_better_half_is_compared(embedder, monkeypatch):
    monkeypatch.setattr(reference_prompts, "LARGEST_POOL", 20)
    chosen = choose(CANDIDATES, 4, embedder=embedder)
    assert len(chosen) == 4
    assert chosen == choose(CANDIDATES[::-1], 4, embedder=embedder)
    ranks = rank([tag(text).features for text in CANDIDATES])
    poor = {CANDIDATES[row] for row in np.argsort(ranks)[: len(CANDIDATES) // 3]}
    assert not poor & {prompt.text for prompt in chosen}
