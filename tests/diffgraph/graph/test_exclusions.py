from dataclasses import dataclass

import numpy as np

from diffgraph.graph.exclusions import exclusions


@dataclass
class Graph:
    """What a snapshot says of its experts: a gain for each expert, prompt and score."""

    kinds: tuple[str, ...]
    gains: np.ndarray
    waiting: tuple[str, ...] = ()

    @property
    def calibrated(self):
        return tuple(ref for ref in self.refs if ref not in self.waiting)

    @property
    def refs(self):
        return tuple(f"hub:{place}@1" for place in range(len(self.kinds)))

    def edge_gains(self, refs):
        return self.gains[[self.refs.index(ref) for ref in refs]]


def gains(*means, prompts=48, spread=0.5):
    noise = np.random.default_rng(0).normal(0, spread, (len(means), prompts, 5))
    return np.asarray(means)[:, None, None] + noise


def test_a_checkpoint_that_is_far_worse_than_the_base_is_named_with_the_evidence():
    found = exclusions(Graph(("checkpoint",) * 3, gains(-1.0, -0.1, 0.2)))
    assert list(found) == ["hub:0@1"]
    assert "48 of 48 reference prompts (-1.0 deviations)" in found["hub:0@1"]


def test_an_effect_is_not_judged_by_prompts_that_do_not_ask_for_it():
    assert exclusions(Graph(("peft", "checkpoint"), gains(-2.0, 0.0))) == {}


def test_nobody_is_judged_before_they_are_measured():
    graph = Graph(("checkpoint",) * 2, gains(-1.0, -1.0), waiting=("hub:0@1",))
    assert list(exclusions(graph)) == ["hub:1@1"]


def test_doubt_is_in_favour_of_the_expert():
    assert exclusions(Graph(("checkpoint",), gains(-0.6, prompts=6, spread=2.0))) == {}
    assert exclusions(Graph(("checkpoint",), gains(-3.0, prompts=1))) == {}
    assert exclusions(Graph((), np.zeros((0, 48, 5)))) == {}
