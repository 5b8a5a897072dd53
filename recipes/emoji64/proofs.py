"""Is emoji64 any good? Four proofs, each a JSON file and a picture or two.

    sheets          what the base and every expert draw
    specialisation  every expert on every skill: what it adds over the base
    scorers         do they follow the truth, on compositions they never saw?
    headroom        what merging can gain on the bench, and how much a planner can earn

A proof whose JSON is there is not run again. `write_document` makes docs/emoji64.md from the JSON:
no figure is typed by hand.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from diffgraph.artifacts import write_text
from recipes.emoji64.proof_headroom import HeadroomConfig, prove_headroom
from recipes.emoji64.proof_inputs import ProofInputs
from recipes.emoji64.proof_scorers import prove_scorers
from recipes.emoji64.proof_sheets import prove_sheets
from recipes.emoji64.proof_skills import SkillsConfig, prove_skills
from recipes.emoji64.scorer_data import DataConfig

log = logging.getLogger(__name__)

Proof = Callable[[ProofInputs, Path], dict[str, Any]]


@dataclass(frozen=True)
class ProofConfig:
    """How much is drawn. The default is for a GPU."""

    skills: SkillsConfig = field(default_factory=SkillsConfig)
    scorers: DataConfig = field(
        default_factory=lambda: DataConfig(test_sets=16, prompts=80, seed=90210)
    )
    headroom: HeadroomConfig = field(default_factory=HeadroomConfig)
    only: tuple[str, ...] = ()

    @classmethod
    def for_device(cls, device: str) -> "ProofConfig":
        """Return what a device does in minutes: everything on a GPU, a part of it on two cores."""
        if torch.device(device).type == "cuda":
            return cls()
        return cls(
            SkillsConfig(prompts=2, batch=16),
            DataConfig(test_sets=3, prompts=8, seed=90210),
            HeadroomConfig(prompts=40, plans=64, seeds=1, judged=2),
        )

    @classmethod
    def small(cls) -> "ProofConfig":
        """Return a rehearsal: too little to prove anything."""
        return cls(
            SkillsConfig(prompts=1, batch=8),
            DataConfig(test_sets=1, prompts=2, seed=90210),
            HeadroomConfig(prompts=1, plans=2, seeds=1, judged=1),
        )


def prove(
    out: Path,
    device: str = "cuda",
    config: ProofConfig | None = None,
    cache: Path = Path(".cache/emoji64"),
) -> dict[str, dict[str, Any]]:
    """Run the proofs that were not run yet; return what all of them found.

    Args:
        out: may hold `base/`, `weights/`, `scorers/`; what ships is used otherwise. The proofs go
            to `proofs/` below it.
        device: `cuda` or `cpu`.
        config: how much is drawn; what the device does in minutes by default.
        cache: the packed art.
    """
    config = config or ProofConfig.for_device(device)
    folder = out / "proofs"
    proofs: Mapping[str, Proof] = {
        "sheets": prove_sheets,
        "specialisation": lambda inputs, to: prove_skills(inputs, to, config.skills),
        "scorers": lambda inputs, to: prove_scorers(inputs, to, config.scorers),
        "headroom": lambda inputs, to: prove_headroom(inputs, to, config.headroom),
    }
    wanted = [name for name in proofs if not config.only or name in config.only]
    missing = [name for name in wanted if not (folder / f"{name}.json").is_file()]
    torch.set_float32_matmul_precision("high")
    inputs = ProofInputs.open(out, cache, device) if missing else None
    for name in missing:
        assert inputs is not None
        started = time.perf_counter()
        found = proofs[name](inputs, folder)
        found["seconds"] = round(time.perf_counter() - started, 1)
        write_text(folder / f"{name}.json", json.dumps(found, indent=1) + "\n")
        log.info("%s: %.0f s", name, found["seconds"])
    return read_proofs(folder)


def read_proofs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the proofs that a folder holds, by name."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.json"))
    }
