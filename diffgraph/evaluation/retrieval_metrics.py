"""Does selection find the experts that a prompt needs? Against any labels, over a whole graph.

A file of labels holds one prompt a line with the experts that are right for it. Two things are
measured: the ranking of all experts that candidates are taken from (recall@k), and what selection
finally chooses (recall, precision). Pages are enough: experts whose weights were never fetched are
searched as well, so that a hub can be measured before anything is downloaded.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from diffgraph.agents.agent import Agent
from diffgraph.errors import InputError, MissingInput
from diffgraph.experts.expert import ExpertRef, Kind
from diffgraph.foreign_files import bounded_lines
from diffgraph.foreign_tables import bounded_batches
from diffgraph.graph.embedding import TextEmbedder
from diffgraph.graph.snapshot import GraphSnapshot
from diffgraph.planner.selection import SelectionConfig, rank, select

DEPTHS = (1, 5, 10, 50)
"""Of the candidates: k of recall@k."""
LONGEST_LINE = 1_000_000  # characters
ROWS_A_BATCH = 1_024
SHOWN = 80  # characters of what was found instead


class Label(BaseModel, frozen=True):
    """A prompt with the experts that are right for it."""

    prompt: str
    experts: tuple[str, ...] = Field(
        description="`source:model`, any version, or one version's ref"
    )


class PromptResult(BaseModel, frozen=True):
    """What was found for one prompt."""

    prompt: str
    experts: tuple[str, ...] = Field(description="the right ones, as the labels name them")
    places: dict[str, int | None] = Field(
        description="where each stands among the candidates, 1 is the first; none: not in the graph"
    )
    chosen: tuple[str, ...] = Field(description="references of the final selection")
    missed: tuple[str, ...] = Field(description="right experts that were not chosen")
    others: tuple[str, ...] = Field(description="chosen experts that are not among the right ones")
    problem: str = Field(default="", description="why the prompt could not be read")


class RetrievalSummary(BaseModel, frozen=True):
    """How well experts are found, over all labelled prompts."""

    prompts: int
    labels: int = Field(description="pairs of a prompt and a right expert")
    experts: int = Field(description="that were searched")
    reachable: float = Field(
        description="share of the labels whose expert can be selected at all: the ceiling of recall"
    )
    recall_at: dict[int, float] = Field(
        description="k → share of a prompt's right experts among the first k, mean over prompts"
    )
    selection_recall: float = Field(description="share of the right experts that are chosen, mean")
    selection_precision: float | None = Field(
        description="share of the chosen experts that are right; none if nothing is ever chosen"
    )
    whole: float = Field(description="share of the prompts for which all right experts are chosen")
    others: float = Field(description="chosen experts a prompt that are not labelled, mean")
    chosen: float = Field(description="experts chosen a prompt, mean")
    problems: int = Field(description="prompts that could not be read; they count as missed")


def read_labels(path: Path) -> tuple[Label, ...]:
    """Return the labels of a file, `{"prompt": "…", "experts": ["source:id", …]}` a line or row.

    Args:
        path: JSONL, or Parquet by its name.

    Raises:
        MissingInput: the file is not there or cannot be read.
        InputError: a line is not such an object, or the file holds none.
    """
    if not path.is_file():
        raise MissingInput(f"no file of labels at {path}")
    try:
        rows = _rows(path) if path.suffix.lower() == ".parquet" else _lines(path)
        labels = tuple(_label(row, where) for row, where in rows)
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or error
        raise MissingInput(f"the labels in {path} cannot be read: {reason}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error.reason}") from error
    if not any(label.experts for label in labels):
        raise InputError(f"{path} labels no prompt with an expert")
    return labels


def _rows(path: Path) -> Iterator[tuple[object, str]]:
    """Yield what stands in each row, and where it stands."""
    columns = [name for name in pq.read_schema(path).names if name in Label.model_fields]
    numbers = count(1)
    for batch in bounded_batches(path, columns, ROWS_A_BATCH):
        for row in batch.to_pylist():
            yield row, f"{path}:{next(numbers)}"


def _lines(path: Path) -> Iterator[tuple[object, str]]:
    """Yield what stands in each line, and where; raises InputError for what is no JSON."""
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(bounded_lines(file), start=1):
            where = f"{path}:{number}"
            if len(line) > LONGEST_LINE:
                raise InputError(f"{where}: the line is longer than {LONGEST_LINE} characters")
            if not line.strip():
                continue
            try:
                yield json.loads(line), where
            except (ValueError, RecursionError) as error:
                raise InputError(f"{where}: not JSON ({error})") from error


def _label(row: object, where: str) -> Label:
    """Return the label of a row; raises InputError, naming its place, for anything else."""
    expected = 'expected {"prompt": "…", "experts": ["source:id", …]}'
    if not isinstance(row, dict):
        raise InputError(f"{where}: {expected}, found {type(row).__name__}")
    prompt, experts = row.get("prompt"), row.get("experts")
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError(f"{where}: {expected}; prompt is {_found(prompt)}")
    if not isinstance(experts, list):
        raise InputError(f"{where}: {expected}; experts is {_found(experts)}")
    for expert in experts:
        if not isinstance(expert, str) or not _is_reference(expert):
            raise InputError(
                f"{where}: an expert is written source:id or source:id@version,"
                f" not {_found(expert)}"
            )
    return Label(prompt=prompt, experts=tuple(dict.fromkeys(experts)))


def _is_reference(text: str) -> bool:
    try:
        ExpertRef.parse(text if "@" in text else f"{text}@any")
    except ValueError:
        return False
    return True


def _found(value: object) -> str:
    return "missing" if value is None else repr(value)[:SHOWN]


@dataclass(frozen=True)
class DescribedExperts:
    """The experts of a graph that selection may use, whether or not their weights are here."""

    refs: tuple[str, ...]
    kinds: tuple[Kind, ...]
    names: tuple[str, ...]
    trigger_words: tuple[tuple[str, ...], ...]
    texts: tuple[str, ...]
    embeddings: NDArray[np.float32]

    @classmethod
    def of(cls, snapshot: GraphSnapshot) -> "DescribedExperts":
        """Return those with a card whose licence allows derivatives."""
        import pyarrow.compute as pc

        nodes = snapshot.nodes
        kept = nodes.filter(pc.and_(pc.not_equal(nodes["agent"], ""), nodes["allow_derivatives"]))

        def column(name: str) -> tuple[str, ...]:
            return tuple(kept[name].to_pylist())

        vectors = kept["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return cls(
            refs=column("ref"),
            kinds=tuple(kept["kind"].to_pylist()),
            names=column("name"),
            trigger_words=tuple(map(tuple, kept["trigger_words"].to_pylist())),
            texts=column("text"),
            embeddings=np.array(vectors, dtype=np.float32).reshape(len(kept), -1),
        )


class Finder(Protocol):
    """Ranks and chooses experts for a prompt."""

    def rank(self, prompt: str, count: int) -> Sequence[str]: ...

    def choose(self, prompt: str) -> Sequence[str]: ...


@dataclass(frozen=True)
class Selector:
    """Selection as `diffgraph plan` does it, over any experts."""

    nodes: DescribedExperts
    agent: Agent
    embedder: TextEmbedder
    config: SelectionConfig
    exclusions: Mapping[str, str] = field(default_factory=dict)

    def rank(self, prompt: str, count: int) -> Sequence[str]:
        """Return the experts most relevant to the prompt, best first."""
        return rank(prompt, self.nodes, self.agent, self.embedder, count)

    def choose(self, prompt: str) -> Sequence[str]:
        """Return the experts that selection ends with."""
        found = select(prompt, self.nodes, self.agent, self.embedder, self.config, self.exclusions)
        return found.refs


def evaluate_retrieval(
    labels: Sequence[Label],
    finder: Finder,
    refs: Sequence[str],
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[RetrievalSummary, tuple[PromptResult, ...]]:
    """Return how well the labelled experts are found, and what was found for each prompt.

    Args:
        labels: prompts with what is right for them.
        finder: ranks and chooses.
        refs: all the experts that it searches.
        on_progress: called with how many prompts of how many are done.
    """
    versions: dict[str, list[str]] = {}
    for ref in refs:
        versions.setdefault(ref, []).append(ref)
        versions.setdefault(ref.rpartition("@")[0], []).append(ref)
    results = []
    for done, label in enumerate(labels, start=1):
        results.append(_look_up(label, finder, versions))
        if on_progress is not None:
            on_progress(done, len(labels))
    return _summary(results, versions, len(refs)), tuple(results)


def _look_up(label: Label, finder: Finder, versions: Mapping[str, Sequence[str]]) -> PromptResult:
    """Search for one prompt; a prompt that cannot be read finds nothing."""
    ranked: Sequence[str] = ()
    chosen: Sequence[str] = ()
    problem = ""
    try:
        ranked = finder.rank(label.prompt, max(DEPTHS))
        chosen = finder.choose(label.prompt)
    except InputError as error:
        problem = str(error)
    place_of = {ref: place for place, ref in enumerate(ranked, start=1)}
    right = {ref for expert in label.experts for ref in versions.get(expert, ())}
    return PromptResult(
        prompt=label.prompt,
        experts=label.experts,
        places={
            expert: min(
                (place_of[r] for r in versions.get(expert, ()) if r in place_of), default=None
            )
            for expert in label.experts
        },
        chosen=tuple(chosen),
        missed=tuple(
            expert for expert in label.experts if not set(versions.get(expert, ())) & set(chosen)
        ),
        others=tuple(ref for ref in chosen if ref not in right),
        problem=problem,
    )


def _summary(
    results: Sequence[PromptResult], versions: Mapping[str, Sequence[str]], experts: int
) -> RetrievalSummary:
    labelled = [result for result in results if result.experts]
    pairs = [expert for result in labelled for expert in result.experts]
    chosen = sum(len(result.chosen) for result in results)
    others = sum(len(result.others) for result in results)
    return RetrievalSummary(
        prompts=len(results),
        labels=len(pairs),
        experts=experts,
        reachable=_rounded(np.mean([expert in versions for expert in pairs])),
        recall_at={
            depth: _rounded(np.mean([_recall(result.places, depth) for result in labelled]))
            for depth in DEPTHS
        },
        selection_recall=_rounded(
            np.mean([1 - len(result.missed) / len(result.experts) for result in labelled])
        ),
        selection_precision=_rounded((chosen - others) / chosen) if chosen else None,
        whole=_rounded(np.mean([not result.missed for result in labelled])),
        others=_rounded(others / len(results)),
        chosen=_rounded(chosen / len(results)),
        problems=sum(bool(result.problem) for result in results),
    )


def _recall(places: Mapping[str, int | None], depth: int) -> float:
    return float(np.mean([place is not None and place <= depth for place in places.values()]))


def _rounded(value: float | np.floating[Any]) -> float:
    return round(float(value), 4)
