"""A small graph, for every room that reads one."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from diffgraph.experts.card import ExpertCard
from diffgraph.experts.expert import Expert, Licence
from diffgraph.families.family import SamplerConfig
from diffgraph.graph.schema import BASE, ExpertNode, PromptNode, scores_schema
from diffgraph.graph.snapshot import GraphSnapshot, open_snapshot, write_snapshot
from diffgraph.scoring.reward import SCORE_NAMES

STRENGTHS = (1.0, 1.0, 0.6, 0.9, 1.2, 0.75)


def unit(generator: np.random.Generator) -> np.ndarray:
    vector = generator.normal(size=384)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def make_nodes(count: int = 6, seed: int = 0) -> list[ExpertNode]:
    """Two checkpoints, then PEFT experts, whose descriptions lie anywhere."""
    generator = np.random.default_rng(seed)
    return [
        ExpertNode(
            Expert(
                ref=f"folder:{100 + place}@{place}",
                name=f"Expert {place}",
                kind="checkpoint" if place < 2 else "peft",
                family="emoji64",
                sha256=f"{place:064x}",
                published_at=datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=place),
                licence=Licence(name="CC0", creator="somebody"),
            ),
            ExpertCard(
                summary=f"Draws thing {place}.",
                skills=("one", "two"),
                recommended_strength=STRENGTHS[place % len(STRENGTHS)],
                agent="offline",
            ),
            unit(generator),
        )
        for place in range(count)
    ]


def make_prompts(count: int = 5, seed: int = 1) -> list[PromptNode]:
    generator = np.random.default_rng(seed)
    return [
        PromptNode(f"r{place}", f"a thing number {place}", place, unit(generator), {"nouns": 2.0})
        for place in range(count)
    ]


def make_scores(
    refs: list[str],
    prompts: list[PromptNode],
    seed: int = 2,
    names: tuple[str, ...] = SCORE_NAMES,
) -> pa.Table:
    generator = np.random.default_rng(seed)
    further = np.random.default_rng(seed)  # so that another score leaves the paper's as they are
    rows = [
        {
            "expert": ref,
            "prompt": prompt.id,
            "seed": prompt.seed,
            **{
                name: float(generator.normal(3.0 * place, 1.0 + place))
                for place, name in enumerate(SCORE_NAMES)
                if name in names
            },
            **{name: float(further.normal()) for name in names if name not in SCORE_NAMES},
        }
        for ref in [BASE, *refs]
        for prompt in prompts
    ]
    return pa.Table.from_pylist(rows, schema=scores_schema(names))


@pytest.fixture(scope="session")
def make_snapshot() -> Callable[..., GraphSnapshot]:
    """Write a graph of random experts into a home and open it."""

    def make(
        home: Path, experts: int = 6, prompts: int = 5, names: tuple[str, ...] = SCORE_NAMES
    ) -> GraphSnapshot:
        nodes, references = make_nodes(experts), make_prompts(prompts)
        scores = make_scores([node.expert.ref for node in nodes], references, names=names)
        write_snapshot(home, "emoji64", nodes, references, scores, SamplerConfig(), "tests")
        return open_snapshot(home)

    return make


@pytest.fixture(scope="session")
def small_snapshot(
    tmp_path_factory: pytest.TempPathFactory, make_snapshot: Callable[..., GraphSnapshot]
) -> GraphSnapshot:
    """Six experts on five reference prompts."""
    return make_snapshot(tmp_path_factory.mktemp("home"))
