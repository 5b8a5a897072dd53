import pytest

from diffgraph.agents import Candidate, OfflineAgent

AGENT = OfflineAgent()


def candidate(name: str, text: str, query: str, similarity: float, kind: str = "peft") -> Candidate:
    return Candidate.model_validate(
        {
            "ref": f"hub:{name.replace(' ', '_')}@1",
            "kind": kind,
            "name": name,
            "text": text,
            "query": query,
            "similarity": similarity,
        }
    )


def kept(*candidates: Candidate) -> list[str]:
    verdicts = AGENT.review(AGENT.parse("a woman with red hair"), candidates)
    return [c.name for c, verdict in zip(candidates, verdicts, strict=True) if verdict.kept]


def test_drops_what_only_sounds_like_it():
    """The paper's own example."""
    flamingo = candidate("Flamingo", "red feathered flamingos", "red hair", 0.41)
    hair = candidate("Ginger", "vivid red hair for portraits", "red hair", 0.85)
    assert kept(flamingo, hair) == ["Ginger"]


def test_keeps_none_if_none_fits():
    assert kept(candidate("Flamingo", "pink birds", "curly hair", 0.2)) == []


def test_shared_words_make_a_weaker_similarity_enough():
    named = candidate("Noir", "film noir", "film noir", 0.4)
    unnamed = candidate("Grey", "no colours", "film noir", 0.4)
    assert kept(named) == ["Noir"]
    assert kept(unnamed) == []


def test_keeps_one_expert_for_one_job():
    better = candidate("Nightfall", "night scene", "night", 0.9)
    worse = candidate("Moonlit", "night with moonlight", "night", 0.8)
    assert kept(worse, better) == ["Nightfall"]


def test_keeps_two_that_serve_different_words_of_one_phrase():
    frame = candidate("Frame", "a frame of wood", "wooden frame with stars", 0.7)
    stars = candidate("Stars", "a sky of stars", "wooden frame with stars", 0.65)
    assert kept(frame, stars) == ["Frame", "Stars"]


def test_drops_a_second_expert_with_the_same_skill_for_another_part():
    sepia = candidate("Sepia", "brown sepia tones old photo", "sepia", 0.9)
    old = candidate("Old Photo", "brown sepia tones old photo look", "old photograph", 0.8)
    assert kept(sepia, old) == ["Sepia"]


@pytest.mark.parametrize(
    ("prompt", "query", "name", "text", "similarity", "is_kept"),
    [
        ("a fire engine", "fire engine", "Fire Glow", "a fiery glow, on fire", 0.51, False),
        ("an old woman", "old woman", "Old Photograph", "an old photograph", 0.4, False),
        ("a crescent moon", "crescent moon", "Moonlit", "night in the moonlight", 0.55, False),
        ("an old woman", "old woman", "Granny", "portraits of an elderly woman", 0.5, True),
        ("a fire engine", "fire engine", "Fire Truck", "big red trucks", 0.7, True),  # as near
        ("a dog, old photograph", "old photograph", "Old Photo", "an old photo", 0.5, True),
    ],
)
def test_an_adapter_for_the_subject_names_it_or_is_very_near(
    prompt, query, name, text, similarity, is_kept
):
    found = candidate(name, text, query, similarity)
    (verdict,) = AGENT.review(AGENT.parse(prompt), [found])
    assert verdict.kept == is_kept, verdict.reason


def test_a_checkpoint_may_know_a_subject_that_its_page_does_not_name():
    found = candidate("Trucks", "everything that rolls, on fire", "fire engine", 0.5, "checkpoint")
    (verdict,) = AGENT.review(AGENT.parse("a fire engine"), [found])
    assert verdict.kept


def test_a_checkpoint_that_does_the_style_makes_an_adapter_needless():
    flat = candidate("Flatland", "flat design", "flat", 0.9, kind="checkpoint")
    poster = candidate("Poster", "flat loud colours", "flat", 0.7)
    assert kept(poster, flat) == ["Flatland"]


def test_says_why():
    dropped, chosen = AGENT.review(
        AGENT.parse("a cat at night"),
        [candidate("Pizza", "food", "night", 0.1), candidate("Dusk", "night sky", "night", 0.8)],
    )
    assert "not about 'night'" in dropped.reason
    assert "fits 'night'" in chosen.reason


def test_of_two_alike_for_a_kind_of_thing_the_one_that_names_more_of_it_is_kept():
    """No page names the subject: that a page says "animal" more often tells little."""
    said = candidate("Pets", "animal, animal, farm animals", "animal", 0.80, kind="checkpoint")
    named = candidate("Zoo", "animals: dogs, bears, owls", "animal", 0.75, kind="checkpoint")
    verdicts = AGENT.review(AGENT.parse("a tapir, a dog"), [said, named])
    assert [verdict.kept for verdict in verdicts] == [True, False]  # the subject is no known animal
    verdicts = AGENT.review(AGENT.parse("a giraffe"), [said, named])
    assert [verdict.kept for verdict in verdicts] == [False, True]
    assert "knows more of its kind" in verdicts[0].reason
    far = said.model_copy(update={"similarity": 0.95})
    assert [v.kept for v in AGENT.review(AGENT.parse("a giraffe"), [far, named])] == [True, False]
