"""How fast is expert selection among very many experts, and does it find the right ones?

    python tests/benchmarks/selection.py [--sizes 10000 100000] [--prompts bench]

Prints one JSON document. Speed: milliseconds a prompt, parsing, embedding, retrieval and review
included, over made-up experts; no phrase comes twice, so that no embedding is remembered. Quality:
the share of a bundled prompt set's prompts for which every expert that the prompt was composed from
is selected (or a twin that the set names), and how many others are. `diffgraph evaluate
--retrieval` measures the same against any labels.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from measuring import tell

from diffgraph.agents import OfflineAgent
from diffgraph.crawlers.folder import FolderCrawler
from diffgraph.experts.expert import Listing
from diffgraph.families.emoji64 import ASSETS
from diffgraph.graph.embedding import TextEmbedder
from diffgraph.planner.selection import select
from recipes.emoji64.community import COMMUNITY

PROMPTS = 200
SUBJECTS = tuple("dog cat robot castle rocket owl pizza ship face tree".split())
SKILLS = tuple(
    "pencil sketch,night scene,neon lights,watercolour,snow,film noir,gold,comic,stained glass,"
    "rain,wooden frame,polka dots,glitch,sunset,blueprint,pastel".split(",")
)


@dataclass
class Nodes:
    """Experts as a snapshot offers them."""

    refs: list[str]
    kinds: list[Any]
    names: list[str]
    trigger_words: list[tuple[str, ...]]
    texts: list[str]
    embeddings: np.ndarray


def made_up(count: int) -> Nodes:
    """Return experts whose cards name real words, with random embeddings."""
    rng = np.random.default_rng(0)
    words = [f"word{number}" for number in range(20_000)]
    texts = [
        f"{SKILLS[n % len(SKILLS)]} for a {SUBJECTS[n % len(SUBJECTS)]}. "
        + " ".join(words[place] for place in rng.integers(len(words), size=30))
        for n in range(count)
    ]
    vectors = rng.standard_normal((count, 384), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kinds = ["checkpoint" if n % 8 == 0 else "peft" for n in range(count)]
    refs = [f"made_up:{n}@1" for n in range(count)]
    names = [f"expert {n}" for n in range(count)]
    return Nodes(refs, kinds, names, [(f"trigger{n}",) for n in range(count)], texts, vectors)


def speed(count: int, embedder: TextEmbedder) -> dict[str, float]:
    """Return how long a prompt takes among `count` experts, by the clock and on the processor."""
    nodes, agent = made_up(count), OfflineAgent()
    start = time.perf_counter()
    select("a dog, watercolour", nodes, agent, embedder)
    first = time.perf_counter() - start
    by_clock, on_processor = [], []
    for prompt in prompts(PROMPTS):
        start, spent = time.perf_counter(), time.process_time()
        select(prompt, nodes, agent, embedder)
        by_clock.append(1000 * (time.perf_counter() - start))
        on_processor.append(1000 * (time.process_time() - spent))
    return {
        "first seconds": round(first, 2),
        "p50 ms": round(float(np.percentile(by_clock, 50)), 1),
        "p95 ms": round(float(np.percentile(by_clock, 95)), 1),
        "p95 ms of processor time": round(float(np.percentile(on_processor, 95)), 1),
    }


def prompts(count: int) -> Iterator[str]:
    """Yield prompts with a subject and two or three attributes, none of them asked for before."""
    rng = np.random.default_rng(0)
    for number in range(count):
        subject, *asked = (f"{word} {number}x{place}" for place, word in enumerate(
            (SUBJECTS[number % len(SUBJECTS)], *rng.choice(SKILLS, 2 + number % 2, replace=False))
        ))  # fmt: skip
        yield f"a {subject}, {', '.join(asked)}"


def community(hub: Path, embedder: TextEmbedder) -> Nodes:
    """Return the newest version of every expert of emoji64, described from its page."""
    older = {recipe.supersedes for recipe in COMMUNITY}
    newest = {recipe.ref: recipe for recipe in COMMUNITY if recipe.slug not in older}
    pages = [
        page
        for page in FolderCrawler(hub).listings()
        if isinstance(page, Listing) and str(page.ref) in newest
    ]
    refs = [str(page.ref) for page in pages]
    texts = [OfflineAgent().describe(page).text for page in pages]
    return Nodes(
        refs,
        [newest[ref].kind for ref in refs],
        [page.name for page in pages],
        [page.trigger_words for page in pages],
        texts,
        embedder.embed(texts),
    )


def quality(name: str, nodes: Nodes, embedder: TextEmbedder) -> dict[str, float | str]:
    """Return how often the experts that a prompt was composed from are selected."""
    recipes = {recipe.ref: recipe for recipe in COMMUNITY}
    agent = OfflineAgent()
    whole, served, recalls, others = [], [], [], []
    for row in pq.read_table(ASSETS / "prompts" / f"{name}.parquet").to_pylist():
        chosen = set(select(row["prompt"], nodes, agent, embedder).refs)
        wanted = set(row["experts"]) & set(nodes.refs)
        known = {
            skill
            for ref in chosen & (wanted | set(row["also"]))
            for skill in (*recipes[ref].treatments, *recipes[ref].groups, *recipes[ref].styles)
        }
        missing = {
            ref
            for ref in wanted
            if not known & {*recipes[ref].treatments, *recipes[ref].groups, *recipes[ref].styles}
        }
        whole.append(wanted <= chosen)
        served.append(not missing)
        recalls.append(1 - len(missing) / len(wanted) if wanted else 1.0)
        others.append(len(chosen - wanted))
    return {
        "prompts": name,
        "count": len(served),
        "all_of_them": round(float(np.mean(whole)), 3),
        "all_or_twins": round(float(np.mean(served)), 3),
        "recall": round(float(np.mean(recalls)), 3),
        "others": round(float(np.mean(others)), 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--prompts", nargs="*", default=[])
    parser.add_argument("--hub", type=Path, default=ASSETS / "hub")
    given = parser.parse_args()
    embedder = TextEmbedder()
    figures: dict[str, Any] = {f"{size} experts": speed(size, embedder) for size in given.sizes}
    if given.prompts:
        nodes = community(given.hub, embedder)
        figures["quality"] = [quality(name, nodes, embedder) for name in given.prompts]
    tell("selection", figures)


if __name__ == "__main__":
    main()
