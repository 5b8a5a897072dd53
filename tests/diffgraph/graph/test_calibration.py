"""Calibration draws every expert once, on equal terms, and nothing that is known already."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from diffgraph.artifacts import sha256_of
from diffgraph.errors import ExpertError, MissingInput
from diffgraph.experts.expert import Expert
from diffgraph.families import get_family
from diffgraph.families.family import SamplerConfig
from diffgraph.generation import Renderer
from diffgraph.graph.calibration import (
    SEED_STRIDE,
    CalibrationConfig,
    Shard,
    calibrate,
    part_path,
    parts,
    shards,
)
from diffgraph.graph.schema import BASE, SCORES, PromptNode
from diffgraph.merging.plan import MergePlan
from diffgraph.scoring.reward import SCORE_NAMES

CONFIG = CalibrationConfig(sampler=SamplerConfig(steps=1, guidance=1.0), shard_size=2, batch_size=2)


class Brightness:
    """A real scorer of a simple kind: how bright a part of the image is."""

    def __init__(self, name: str, row: int) -> None:
        self.name, self.row = name, row

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        assert len(images) == len(prompts)
        return images[:, :, self.row * 8 : self.row * 8 + 8].mean(dim=(1, 2, 3)).float()


FIVE = {name: Brightness(name, row) for row, name in enumerate(SCORE_NAMES)}


class Shelf:
    """Experts and their files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.experts: dict[str, Expert] = {}

    def add(self, name: str, kind: str, tensors: Mapping[str, Tensor]) -> Expert:
        file = self.folder / f"{name}.safetensors"
        save_file(dict(tensors), file)
        facts: dict[str, Any] = {"name": name, "kind": kind, "family": "emoji64"}
        expert = Expert(ref=f"folder:{name}@1", sha256=sha256_of(file), **facts)
        file.rename(self.folder / expert.sha256)
        self.experts[expert.ref] = expert
        return expert

    def get(self, ref: str) -> Expert:
        if ref not in self.experts:
            raise MissingInput(f"no expert {ref}")
        return self.experts[ref]

    def path_of(self, sha256: str) -> Path:
        return self.folder / sha256


@pytest.fixture
def shelf(tmp_path: Path, tiny_model: Any) -> Shelf:
    """A LoRA, a checkpoint, and a file that holds NaN."""
    generator = torch.Generator().manual_seed(0)
    shelf = Shelf(tmp_path)
    module = next(name for name in tiny_model.modules() if name.endswith("attn2.to_q"))
    rows, columns = tiny_model.parameters()[f"{module}.weight"].shape
    down = torch.randn(2, columns, generator=generator)
    up = torch.randn(rows, 2, generator=generator)
    lora = {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
    shelf.add("lora", "peft", lora)
    shelf.add("broken", "peft", {**lora, f"{module}.lora_A.weight": down * float("nan")})
    shelf.add("whole", "checkpoint", {n: v * 1.1 for n, v in tiny_model.parameters().items()})
    return shelf


@pytest.fixture
def renderer(shelf: Shelf, tiny_model: Any) -> Renderer:
    return Renderer(get_family("emoji64"), shelf, model=tiny_model)


def prompts(count: int = 3) -> list[PromptNode]:
    return [
        PromptNode(f"r{place}", f"thing {place}", 10 + place, np.zeros(384, np.float32))
        for place in range(count)
    ]


def work(shelf: Shelf, *names: str, folder: Path | None = None, **changes: Any) -> list[Shard]:
    config = CONFIG.model_copy(update=changes)
    experts = [(shelf.get(f"folder:{name}@1"), 0.7) for name in names]
    return shards("emoji64", experts, prompts(), config, "five", folder)


def rows(path: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(path).to_pylist())


def test_every_expert_and_the_base_draw_every_prompt_from_the_same_seeds(
    shelf: Shelf, renderer: Renderer, tmp_path: Path
) -> None:
    done: list[int] = []
    shared = work(shelf, "lora", "whole")
    assert [len(shard.experts) for shard in shared] == [2, 1]
    results = [calibrate(shard, renderer, FIVE, tmp_path / "s", done.append) for shard in shared]
    files = [path for result in results for path in result.parts]
    assert files == parts(shared, tmp_path / "s")
    tables = {rows(path)[0]["expert"]: rows(path) for path in files}
    assert set(tables) == {BASE, "folder:lora@1", "folder:whole@1"}
    for table in tables.values():
        assert [(row["prompt"], row["seed"]) for row in table] == [
            ("r0", 10),
            ("r1", 11),
            ("r2", 12),
        ]
    assert sum(done) == sum(shard.images for shard in shared) == 9
    scores = {ref: [row["hps"] for row in table] for ref, table in tables.items()}
    assert scores[BASE] != scores["folder:lora@1"] != scores["folder:whole@1"]


def test_a_score_is_that_of_the_experts_own_image(
    shelf: Shelf, renderer: Renderer, tmp_path: Path, tiny_model: Any
) -> None:
    (result,) = [calibrate(shard, renderer, FIVE, tmp_path / "s") for shard in work(shelf, "lora")]
    found = {row["expert"]: row for path in result.parts for row in rows(path)[:1]}
    module = next(name for name in tiny_model.modules() if name.endswith("attn2.to_q"))
    weight = tiny_model.parameters()[f"{module}.weight"]
    renderer.merger.reset()
    from safetensors.torch import load_file

    lora = load_file(shelf.path_of(shelf.get("folder:lora@1").sha256))
    for ref, strength in ((BASE, 0.0), ("folder:lora@1", 0.7)):
        up, down = lora[f"{module}.lora_B.weight"], lora[f"{module}.lora_A.weight"]
        renderer.merger.reset()
        with torch.no_grad():
            weight += strength * up @ down
        image = tiny_model.sample(["thing 0"], [10], CONFIG.sampler)
        for name, scorer in FIVE.items():
            assert found[ref][name] == pytest.approx(scorer(image, [""]).item(), abs=1e-4)
    renderer.merger.reset()


def test_what_is_known_is_not_drawn_again(shelf: Shelf, renderer: Renderer, tmp_path: Path) -> None:
    for shard in work(shelf, "lora"):
        calibrate(shard, renderer, FIVE, tmp_path / "s")

    class Never:
        def render(self, *_: Any, **__: Any) -> Tensor:
            raise AssertionError("drawn again")

    done: list[int] = []
    (shard,) = work(shelf, "lora")
    assert len(calibrate(shard, Never(), FIVE, tmp_path / "s", done.append).parts) == 2
    assert sum(done) == shard.images
    (left,) = work(shelf, "lora", "whole", folder=tmp_path / "s")
    assert [expert.ref for expert in left.experts] == ["folder:whole@1"]


def test_a_killed_shard_goes_on_with_the_expert_it_had_not_finished(
    shelf: Shelf, renderer: Renderer, tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    drawn: list[str] = []

    class Mortal:
        prefetch = renderer.prefetch

        def render(self, plan: MergePlan, *arguments: Any, **named: Any) -> Tensor:
            drawn.append(plan.experts[0].ref if plan.experts else BASE)
            if len(drawn) == 4:
                raise Killed
            return renderer.render(plan, *arguments, **named)

    (shard,) = work(shelf, "lora")
    with pytest.raises(Killed):
        calibrate(shard, Mortal(), FIVE, tmp_path / "s")
    assert len(list((tmp_path / "s").iterdir())) == 1
    calibrate(shard, Mortal(), FIVE, tmp_path / "s")
    assert drawn == [BASE] * 2 + ["folder:lora@1"] * 4


def test_a_bad_expert_is_reported_and_the_others_go_on(
    shelf: Shelf, renderer: Renderer, tmp_path: Path
) -> None:
    gone = Expert(ref="folder:gone@1", name="gone", kind="peft", family="emoji64", sha256="0")
    experts = [(gone, 1.0), (shelf.get("folder:broken@1"), 1.0), (shelf.get("folder:lora@1"), 1.0)]
    shared = shards("emoji64", experts, prompts(), CONFIG, "five")
    results = [calibrate(shard, renderer, FIVE, tmp_path / "s") for shard in shared]
    failed = {ref: reason for result in results for ref, reason in result.failed.items()}
    assert set(failed) == {"folder:gone@1", "folder:broken@1"}
    assert failed["folder:broken@1"].startswith("DamagedFile: ")
    assert len(parts(shared, tmp_path / "s")) == 2


def test_scores_that_are_no_numbers_are_refused(
    shelf: Shelf, renderer: Renderer, tmp_path: Path
) -> None:
    class Blind(Brightness):
        def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
            return super().__call__(images, prompts) * float("nan")

    (shard,) = work(shelf, "lora")
    with pytest.raises(ExpertError, match="base"):
        calibrate(shard, renderer, {**FIVE, "hps": Blind("hps", 4)}, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_several_seeds_are_several_images(shelf: Shelf, renderer: Renderer, tmp_path: Path) -> None:
    (shard,) = work(shelf, seeds=2)
    (path,) = calibrate(shard, renderer, FIVE, tmp_path / "s").parts
    assert [row["seed"] for row in rows(path)] == [
        10,
        11,
        12,
        *(s + SEED_STRIDE for s in (10, 11, 12)),
    ]
    assert pq.read_schema(path).equals(SCORES)


def test_strengths_are_the_cards_or_the_configs_but_checkpoints_are_whole(shelf: Shelf) -> None:
    def coefficients(**changes: Any) -> list[float]:
        return [e.coefficient for s in work(shelf, "lora", "whole", **changes) for e in s.experts]

    assert coefficients() == [1.0, 0.7, 1.0]
    assert coefficients(strength=0.5) == [1.0, 0.5, 1.0]


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": 2},
        {"sampler": SamplerConfig(steps=2, guidance=1.0)},
        {"strength": 0.9},
        {"scorers": "others"},
        {"prompts": 2},
        {"sha256": "f" * 64},
    ],
    ids=lambda change: next(iter(change)),
)
def test_all_that_changes_a_score_changes_its_name(
    shelf: Shelf, tmp_path: Path, change: dict[str, Any]
) -> None:
    def name(facts: Mapping[str, Any]) -> str:
        config = CONFIG.model_copy(
            update={key: facts[key] for key in ("seeds", "sampler", "strength") if key in facts}
        )
        expert = shelf.get("folder:lora@1")
        expert = expert.model_copy(update={"sha256": facts.get("sha256", expert.sha256)})
        asked = prompts(facts.get("prompts", 3))
        (shard,) = shards("emoji64", [(expert, 0.7)], asked, config, facts.get("scorers", "five"))
        return part_path(shard, shard.experts[1], tmp_path).name

    assert name({}) == name({})
    assert name(change) != name({})


def test_how_the_work_is_shared_changes_no_name(shelf: Shelf, tmp_path: Path) -> None:
    def names(**changes: Any) -> set[str]:
        shared = work(shelf, "lora", "whole", **changes)
        return {part_path(s, e, tmp_path).name for s in shared for e in s.experts}

    assert names() == names(shard_size=1, batch_size=7)
