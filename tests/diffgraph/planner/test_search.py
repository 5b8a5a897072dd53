"""On a made-up reward with a known best plan, asking and telling must find it."""

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Beta

from diffgraph.graph.snapshot import GraphSnapshot
from diffgraph.merging.plan import STRONGEST
from diffgraph.planner.search import (
    INSIDE,
    PolicyGradient,
    SearchConfig,
    leave_one_out,
    sample_beta,
)
from diffgraph.planner.subgraph import Subgraph, activate, collate
from diffgraph.planner.vgae import VGAE, VGAEConfig


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def graphs(snapshot: GraphSnapshot, count: int, seed: int = 0) -> list[Subgraph]:
    """Return subgraphs of two to four experts each, for prompts that lie near some of them."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        refs = rng.choice(snapshot.refs, rng.integers(2, 5), replace=False).tolist()
        vector = rng.uniform(0, 1, len(refs)) @ snapshot.embeddings[snapshot.index(refs)]
        made.append(
            activate(snapshot, refs, (vector / np.linalg.norm(vector)).astype("f"), f"p{number}")
        )
    return made


def best_strengths(snapshot: GraphSnapshot, graph: Subgraph) -> Tensor:
    """Return each expert's best strength: more if calibration favours it or the prompt is near."""
    every = snapshot.edge_gains(snapshot.refs).mean(axis=(1, 2))
    gains = (snapshot.edge_gains(graph.refs).mean(axis=(1, 2)) - every.mean()) / every.std()
    prompt = graph.nodes[0, :384].numpy() / math.sqrt(384)
    near = snapshot.embeddings[snapshot.index(graph.refs)] @ prompt
    return torch.as_tensor(0.75 + 0.3 * gains + 0.5 * (near - 0.5)).clamp(0.1, 1.4).float()


def rewards_of(best: Tensor, weights: Tensor) -> Tensor:
    """Return the reward of plans (samples, experts): how far they are from the best one."""
    return -(STRONGEST * weights - best).square().sum(dim=-1)


@pytest.fixture(scope="module")
def snapshot(
    tmp_path_factory: pytest.TempPathFactory, make_snapshot: Callable[..., GraphSnapshot]
) -> GraphSnapshot:
    return make_snapshot(tmp_path_factory.mktemp("search"), experts=16, prompts=12)


def test_finds_the_best_plan_and_beats_the_best_constant_on_held_out_prompts(
    snapshot: GraphSnapshot,
) -> None:
    practice, held_out = graphs(snapshot, 64), graphs(snapshot, 24, seed=1)
    rounds = 60
    vgae = VGAE(VGAEConfig(), generator())
    search = PolicyGradient(vgae, SearchConfig(), rounds, generator(1))
    for number in range(rounds):
        asked = [practice[(8 * number + place) % len(practice)] for place in range(8)]
        proposal = search.ask(asked)
        parts = torch.split(proposal.weights, [len(graph.refs) for graph in asked], dim=1)
        told = [
            rewards_of(best_strengths(snapshot, graph), part)
            for graph, part in zip(asked, parts, strict=True)
        ]
        search.tell(proposal, torch.stack(told))
    bests = [best_strengths(snapshot, graph) for graph in held_out]
    best = torch.cat(bests)
    wrong = (STRONGEST * vgae.expected(collate(held_out)) - best).square().mean()
    constant = (best - best.mean()).square().mean()  # the best that equal coefficients can do
    untrained = VGAE(VGAEConfig(), generator())
    first = (STRONGEST * untrained.expected(collate(held_out)) - best).square().mean()
    assert wrong < 0.35 * constant
    assert wrong < 0.35 * first


def test_one_epoch_is_the_score_function_of_the_paper(snapshot: GraphSnapshot) -> None:
    """Equation 4: the gradient is the mean of advantage times grad log P(w)."""
    config = SearchConfig(
        epochs=1, divergence=0.0, entropy=0.0, weight_decay=0.0, gradient_norm=1e9, samples=3
    )
    vgae = VGAE(VGAEConfig(), generator())
    for parameter in vgae.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator(3))
    search = PolicyGradient(vgae, config, 1, generator(1))
    proposal = search.ask(graphs(snapshot, 2))
    rewards = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.5, 0.1]])
    by_hand = copy.deepcopy(vgae)
    latent = by_hand.encode(proposal.batch)
    beta = by_hand.decode(latent.drawn(proposal.noise), proposal.batch)
    advantages = leave_one_out(rewards)
    loss = torch.zeros(())
    for prompt in range(2):
        mine = proposal.batch.owners == prompt
        log_p = beta.log_prob(proposal.weights)[:, mine].sum(dim=1)
        loss = loss - (advantages[prompt] * log_p).sum() / 6
    loss.backward()
    search.tell(proposal, rewards)
    for (name, ours), theirs in zip(vgae.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=lambda text, n=name: f"{n}: {text}")


def test_advantages_leave_the_plan_itself_out() -> None:
    rewards = torch.tensor([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]])
    raw = torch.tensor([[1 - 4, 2 - 3.5, 6 - 1.5], [0, 0, 0]])
    torch.testing.assert_close(leave_one_out(rewards), raw / raw.square().mean().sqrt())


def test_a_plan_that_could_not_be_drawn_teaches_nothing() -> None:
    rewards = torch.tensor([[1.0, math.nan, 3.0], [math.nan, math.nan, 9.0]])
    advantages = leave_one_out(rewards)
    assert advantages[0, 1] == 0
    assert (advantages[1] == 0).all()
    assert advantages[0, 0] == -advantages[0, 2] < 0


def test_equal_rewards_have_no_advantage() -> None:
    assert (leave_one_out(torch.full((2, 4), 3.0)) == 0).all()


def test_nothing_known_changes_nothing_but_the_count(snapshot: GraphSnapshot) -> None:
    config = SearchConfig(divergence=0.0, entropy=0.0, weight_decay=0.0)
    vgae = VGAE(VGAEConfig(), generator())
    before = {name: value.clone() for name, value in vgae.state_dict().items()}
    search = PolicyGradient(vgae, config, 5, generator())
    lesson = search.tell(search.ask(graphs(snapshot, 2)), torch.full((2, 4), math.nan))
    assert math.isnan(lesson.reward)
    assert all(torch.equal(value, before[name]) for name, value in vgae.state_dict().items())
    assert search.told == 1


def test_samples_follow_the_beta_and_keep_off_its_ends() -> None:
    beta = Beta(torch.tensor([3.0, 1.02, 150.0]), torch.tensor([5.0, 40.0, 1.02]))
    drawn = sample_beta(
        Beta(beta.concentration1.expand(20_000, 3), beta.concentration0), generator()
    )
    torch.testing.assert_close(drawn.mean(dim=0), beta.mean, atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.std(dim=0), beta.stddev, atol=0.01, rtol=0)
    assert drawn.min() >= INSIDE
    assert drawn.max() <= 1 - INSIDE


def test_plans_carry_the_sampled_weights(snapshot: GraphSnapshot) -> None:
    asked = graphs(snapshot, 3)
    search = PolicyGradient(VGAE(VGAEConfig(), generator()), SearchConfig(), 1, generator())
    proposal = search.ask(asked)
    plans = proposal.plans("strength")
    assert [len(tried) for tried in plans] == [4, 4, 4]
    flat = [expert.coefficient for tried in plans for expert in tried[2].experts]
    assert flat == pytest.approx(proposal.weights[2].tolist())
    assert [expert.ref for expert in plans[1][0].experts] == list(asked[1].refs)


def test_goes_on_from_its_state_exactly(snapshot: GraphSnapshot) -> None:
    asked = graphs(snapshot, 3)

    def step(search: PolicyGradient) -> None:
        proposal = search.ask(asked)
        search.tell(proposal, -proposal.weights[:, : len(asked)].T.contiguous())

    whole = PolicyGradient(VGAE(VGAEConfig(), generator()), SearchConfig(), 4, generator(1))
    step(whole)
    step(whole)
    state = whole.state()
    step(whole)
    again = PolicyGradient(VGAE(VGAEConfig(), generator(9)), SearchConfig(), 4, generator(8))
    again.load_state(state)
    step(again)
    for name, value in whole.state().items():
        assert torch.equal(value, again.state()[name]), name


def test_without_experts_there_is_nothing_to_search(snapshot: GraphSnapshot) -> None:
    search = PolicyGradient(VGAE(VGAEConfig(), generator()), SearchConfig(), 1, generator())
    nobody = activate(snapshot, [], snapshot.prompt_embeddings[0])
    with pytest.raises(ValueError, match="nothing to search"):
        search.ask([nobody])
