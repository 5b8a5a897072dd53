"""How strongly should each chosen expert count for this prompt?

The merging planner of DiffGraph section 3.2 (https://arxiv.org/abs/2603.20470): a trained VGAE
over the prompt's subgraph. A planner is a folder of two files, weights as safetensors and a
config as JSON; it works with any snapshot of its family, experts that came after its training
included.
"""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from diffgraph.artifacts import sha256_of, write_bytes, write_text
from diffgraph.errors import DiffgraphError, MissingInput
from diffgraph.experts.weights_file import open_weights
from diffgraph.foreign_files import parse_strict, read_foreign
from diffgraph.merging.plan import STRONGEST, MergePlan, Normalisation, PlannedExpert
from diffgraph.merging.plan_files import reason_of
from diffgraph.planner.subgraph import Subgraph, activate, collate
from diffgraph.planner.vgae import VGAE, VGAEConfig
from diffgraph.scoring.reward import SCORE_NAMES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from diffgraph.graph.snapshot import GraphSnapshot

WEIGHTS, CONFIG = "planner.safetensors", "config.json"
PLANNER_VERSION = 1
MOST_BYTES = 1 << 20  # of a config


class Chosen(Protocol):
    """The experts chosen for a prompt: `planner.selection.Selection` is one."""

    @property
    def prompt(self) -> str:
        """What is to be drawn."""
        ...

    @property
    def refs(self) -> tuple[str, ...]:
        """The chosen experts."""
        ...


class PlannerConfig(BaseModel, frozen=True, extra="forbid"):
    """What a planner is, and what made it."""

    version: int = PLANNER_VERSION
    family: str
    snapshot: str = Field(description="id of the snapshot it was trained on")
    scores: tuple[str, ...] = Field(
        default=SCORE_NAMES, description="what it reads of an edge, in its order"
    )
    normalisation: Normalisation = "strength"
    vgae: VGAEConfig = VGAEConfig()
    seed: int = 0
    code_version: str = ""
    training: dict[str, Any] = Field(default_factory=dict, description="the full training config")
    metrics: dict[str, float] = Field(default_factory=dict)
    weights: str = Field(default="", description="SHA-256 of the weights file; set by `save`")


class Planner:
    """Turns a selection into a merge plan, in milliseconds on a CPU."""

    def __init__(self, config: PlannerConfig, vgae: VGAE) -> None:
        self.config = config
        self.vgae = vgae

    @classmethod
    def new(cls, config: PlannerConfig) -> "Planner":
        """Return an untrained planner: it plans every expert at its recommended strength."""
        generator = torch.Generator().manual_seed(config.seed)
        return cls(config, VGAE(config.vgae, generator, len(config.scores)))

    @classmethod
    def load(cls, folder: Path) -> "Planner":
        """Return the planner that `save` wrote.

        Raises:
            MissingInput: the folder holds no planner, or a damaged one.
        """
        try:
            facts = parse_strict(read_foreign(folder / CONFIG, MOST_BYTES))
            version = facts.get("version") if isinstance(facts, dict) else None
            if version not in (None, PLANNER_VERSION):
                raise ValueError(f"planner version {version}, this code reads {PLANNER_VERSION}")
            config = PlannerConfig.model_validate(facts)
            _demand_weights(folder / WEIGHTS, config)
            if config.weights not in ("", sha256_of(folder / WEIGHTS)):
                raise ValueError(f"{WEIGHTS} is damaged: its hash is not the one in {CONFIG}")
            planner = cls.new(config)
            planner.vgae.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, ValueError, RuntimeError, SafetensorError, DiffgraphError) as error:
            why = reason_of(error) if isinstance(error, ValidationError) else error
            raise MissingInput(f"no planner can be read from {folder}: {why}") from error
        return planner

    def save(self, folder: Path) -> None:
        """Write the planner's two files, the config last: a folder with a config is whole.

        Raises:
            StorageError: the folder cannot be written.
        """
        weights = {name: value.contiguous() for name, value in self.vgae.state_dict().items()}
        data = save(weights)
        self.config = self.config.model_copy(update={"weights": sha256(data).hexdigest()})
        write_bytes(folder / WEIGHTS, data)
        write_text(folder / CONFIG, self.config.model_dump_json(indent=2))

    def plan(
        self,
        snapshot: "GraphSnapshot",
        selection: Chosen,
        prompt_embedding: "NDArray[np.float32]",
        normalisation: Normalisation | None = None,
    ) -> MergePlan:
        """Return the merge plan for a selection; without experts, the base's.

        Those that are not calibrated yet are planned at the strengths of their pages.

        Args:
            snapshot: the graph that the selection was made from.
            selection: the chosen experts.
            prompt_embedding: (384,), a unit vector, of the prompt.
            normalisation: another than the planner was trained for, to compare them.

        Raises:
            MissingInput: the graph lacks a score that the planner reads.
        """
        measured = [ref for ref in selection.refs if ref in set(snapshot.calibrated)]
        if not measured:
            return plan_by_pages(snapshot, selection.refs)
        graph = activate(snapshot, measured, prompt_embedding, selection.prompt, self.config.scores)
        plan = self.plans([graph], normalisation)[0]
        waiting = [ref for ref in selection.refs if ref not in measured]
        others = (
            # weights as the planner's, that stand for these strengths
            expert.model_copy(update={"coefficient": expert.coefficient / STRONGEST})
            for expert in plan_by_pages(snapshot, waiting).experts
        )
        return plan.model_copy(update={"experts": (*plan.experts, *others)}) if waiting else plan

    def plans(
        self, subgraphs: Sequence[Subgraph], normalisation: Normalisation | None = None
    ) -> list[MergePlan]:
        """Return one plan a subgraph, from a single forward pass."""
        rule = normalisation or self.config.normalisation
        weights = self.vgae.expected(collate(subgraphs))
        parts = torch.split(weights, [len(graph.refs) for graph in subgraphs])
        return [
            graph.plan(part.tolist(), rule) for graph, part in zip(subgraphs, parts, strict=True)
        ]


def plan_by_pages(snapshot: "GraphSnapshot", refs: Sequence[str]) -> MergePlan:
    """Return the plan that needs no scores: PEFT experts as strong as their pages say.

    Checkpoints have equal shares of one model.
    """
    rows = snapshot.index(refs)
    kinds = [snapshot.kinds[row] for row in rows]
    experts = (
        PlannedExpert(
            ref=snapshot.refs[row],
            kind=kind,
            coefficient=1.0 / kinds.count(kind)
            if kind == "checkpoint"
            else round(float(snapshot.strengths[row]), 6),
            sha256=snapshot.sha256s[row],
        )
        for row, kind in zip(rows, kinds, strict=True)
    )
    return MergePlan(family=snapshot.family, experts=tuple(experts))


def _demand_weights(path: Path, config: PlannerConfig) -> None:
    """Raise `ValueError` unless a file has the weights of such a network; none is made for that."""
    file = open_weights(path)
    found = {name: tuple(entry.shape) for name, entry in file.entries.items()}
    with torch.device("meta"):
        network = VGAE(config.vgae, torch.Generator(), len(config.scores))
    for name, value in network.state_dict().items():
        if found.get(name) != tuple(value.shape):
            raise ValueError(
                f"{path.name}: {name} should be {tuple(value.shape)}, found {found.get(name)}"
            )
