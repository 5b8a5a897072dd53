from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from diffgraph.artifacts import sha256_of
from diffgraph.errors import DamagedFile, InputError, LicenceForbids, MissingInput, PlanError
from diffgraph.experts.expert import Expert, Licence
from diffgraph.families import get_family
from diffgraph.families.family import SamplerConfig
from diffgraph.generation import Renderer, as_image, device_of, save_png
from diffgraph.merging.plan import MergePlan, PlannedExpert
from diffgraph.merging.plan_files import read_plan
from recipes.emoji64.writing import write_checkpoint

SAMPLER = SamplerConfig(steps=2)


class Shelf:
    """Experts in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[str, Expert] = {}
        self.opened = 0

    def put(self, model: Any, ref: str, seed: int, **more: Any) -> Expert:
        generator = torch.Generator().manual_seed(seed)
        name = "unet.up_blocks.1.attentions.0.transformer_blocks.0.ff.net.2.weight"
        learnt = dict(model.parameters())
        learnt[name] = learnt[name] + 0.3 * torch.randn(learnt[name].shape, generator=generator)
        part = self.folder / "part.safetensors"
        write_checkpoint(learnt, part, "fp32")
        sha256 = sha256_of(part)
        part.rename(self.folder / sha256)
        row = {"ref": ref, "name": ref, "kind": "checkpoint", "family": "emoji64", "sha256": sha256}
        self.rows[ref] = Expert(**{**row, **more})
        return self.rows[ref]

    def get(self, ref: str) -> Expert:
        if ref not in self.rows:
            raise MissingInput(f"no expert {ref}")
        return self.rows[ref]

    def path_of(self, sha256: str) -> Path:
        self.opened += 1
        return self.folder / sha256


@pytest.fixture
def shelf(tiny_model: Any, tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path)
    for number in (1, 2):
        shelf.put(tiny_model, f"hub:{number}@1", number)
    return shelf


@pytest.fixture
def renderer(tiny_model: Any, shelf: Shelf) -> Renderer:
    return Renderer(get_family("emoji64"), shelf, model=tiny_model)


def plan_of(first: float = 1.0, second: float = 0.5, **more: Any) -> MergePlan:
    experts = (
        PlannedExpert(ref="hub:1@1", kind="checkpoint", coefficient=first),
        PlannedExpert(ref="hub:2@1", kind="checkpoint", coefficient=second),
    )
    return MergePlan(**{"family": "emoji64", "experts": experts, **more})


def test_the_same_plan_prompt_and_seed_give_the_same_pixels(
    renderer: Renderer, shelf: Shelf
) -> None:
    first = renderer.render(plan_of(), ["a cat"], [5], SAMPLER)
    other = renderer.render(plan_of(0.2), ["a cat"], [5], SAMPLER)
    again = renderer.render(plan_of(), ["a cat"], [5], SAMPLER)
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 1e-3
    fresh = Renderer(renderer.family, shelf, model=renderer.model)
    fresh.merger.base.update(renderer.merger.base)
    assert torch.equal(fresh.render(plan_of(), ["a cat"], [5], SAMPLER), first)


def test_neighbours_change_nothing_that_can_be_seen(renderer: Renderer) -> None:
    alone = renderer.render(plan_of(), ["a cat"], [5], SAMPLER)
    among = renderer.render(plan_of(), ["a dog", "a cat", "a red car"], [1, 5, 9], SAMPLER)
    assert (among[1] - alone[0]).abs().max() < 0.5 / 255


def test_rollouts_are_single_plans(renderer: Renderer) -> None:
    plans = [plan_of(0.1), plan_of(0.9), MergePlan(family="emoji64"), plan_of(0.9)]
    prompts, seeds = ["a cat", "a dog", "a cat", "a car"], [1, 2, 3, 4]
    together = renderer.render_rollouts(plans, prompts, seeds, SAMPLER)
    for index, plan in enumerate(plans):
        single = renderer.render(plan, [prompts[index]], [seeds[index]], SAMPLER)
        torch.testing.assert_close(together[index], single[0], rtol=0, atol=1e-4)


def test_rollouts_end_at_a_step_when_they_are_stopped(renderer: Renderer) -> None:
    plans = [plan_of(0.1), plan_of(0.9)]
    steps: list[int] = []

    def stop(step: int) -> None:
        steps.append(step)
        raise KeyboardInterrupt

    before = renderer.render(plans[0], ["a cat"], [1], SAMPLER)
    for some in (plans, [plans[0], plans[0]]):
        with pytest.raises(KeyboardInterrupt):
            renderer.render_rollouts(some, ["a cat"] * 2, [1, 2], SAMPLER, on_step=stop)
    assert steps == [0, 0]
    assert torch.equal(renderer.render(plans[0], ["a cat"], [1], SAMPLER), before)


def test_an_expert_is_read_once(renderer: Renderer, shelf: Shelf) -> None:
    for share in (0.1, 0.2, 0.3):
        renderer.render(plan_of(share), ["a cat"], [1], SAMPLER)
    assert shelf.opened == 2


def test_a_small_cache_forgets_and_still_draws(tiny_model: Any, shelf: Shelf) -> None:
    renderer = Renderer(get_family("emoji64"), shelf, model=tiny_model, cache_bytes=0)
    both = renderer.render(plan_of(), ["a cat"], [1], SAMPLER)
    renderer.render(plan_of(0.0), ["a cat"], [1], SAMPLER)
    assert torch.equal(renderer.render(plan_of(), ["a cat"], [1], SAMPLER), both)
    assert shelf.opened == 3  # the second was the last one used, and was kept


def test_the_next_plan_is_read_while_this_one_is_drawn(renderer: Renderer, shelf: Shelf) -> None:
    first, second = plan_of(second=0.0), plan_of(first=0.0)
    renderer.prefetch([second])
    drawn = renderer.render(first, ["a cat"], [1], SAMPLER)
    renderer._store._reader.shutdown()  # what was asked for has been read by now
    assert shelf.opened == 2
    assert not torch.equal(renderer.render(second, ["a cat"], [1], SAMPLER), drawn)
    assert shelf.opened == 2


def test_fetching_ahead_what_is_not_there_is_told_when_it_is_drawn(renderer: Renderer) -> None:
    unknown = PlannedExpert(ref="hub:9@1", kind="checkpoint", coefficient=1)
    plan = plan_of(experts=(unknown,))
    renderer.prefetch([plan])
    with pytest.raises(PlanError, match="hub:9@1"):
        renderer.render(plan, ["a cat"], [1])


def test_k_lora_draws_with_another_merge_at_every_step(
    renderer: Renderer, shelf: Shelf, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (3, 4):
        shelf.put(tiny_model, f"hub:{number}@1", number, kind="peft")
    experts = tuple(
        PlannedExpert(ref=f"hub:{number}@1", kind="peft", coefficient=1.0) for number in (3, 4)
    )
    given = {"rule": "k_lora", "parameters": {"content": "hub:3@1"}, "experts": experts}
    plan = plan_of(**given)
    both = renderer.deltas([plan])
    nothing = {ref: replace(delta, updates={}) for ref, delta in both.items()}
    # the content's at the first step, the style's at the second
    only = [{**nothing, ref: both[ref]} for ref in ("hub:3@1", "hub:4@1")]
    monkeypatch.setattr("diffgraph.generation.schedule", lambda *_: only)
    name = "unet.up_blocks.1.attentions.0.transformer_blocks.0.ff.net.2.weight"
    seen: list[torch.Tensor] = []
    told: list[int] = []
    forward = renderer.model.modules()[name.removesuffix(".weight")].forward

    def look(states: torch.Tensor) -> torch.Tensor:
        seen.append(renderer.model.parameters()[name].clone())
        result: torch.Tensor = forward(states)
        return result

    module = renderer.model.modules()[name.removesuffix(".weight")]
    monkeypatch.setattr(module, "forward", look)
    renderer.render(plan, ["a cat"], [1], SAMPLER, told.append)
    base = renderer.merger.base[name]
    for held, ref in zip(seen, both, strict=True):
        update = both[ref].updates[name]
        torch.testing.assert_close(held, base + update.dense(), rtol=0, atol=1e-6)
    assert told == [0, 1]


def test_threads_take_turns(renderer: Renderer) -> None:
    plans = [plan_of(share) for share in (0.1, 0.5, 0.9)] * 2
    expected = [renderer.render(plan, ["a cat"], [1], SAMPLER) for plan in plans]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda plan: renderer.render(plan, ["a cat"], [1], SAMPLER), plans))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_an_empty_plan_is_the_base(renderer: Renderer, tiny_model: Any) -> None:
    base = tiny_model.sample(["a cat"], [1], SAMPLER)
    renderer.render(plan_of(), ["a cat"], [1], SAMPLER)
    found = renderer.render(MergePlan(family="emoji64"), ["a cat"], [1], SAMPLER)
    assert torch.equal(found, base)
    assert renderer.render(plan_of(), [], []).shape == (0, 3, 64, 64)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"family": "sd15"}, PlanError, "sd15"),
        ({"status": "registered_only", "reason": "no derivatives"}, LicenceForbids, "derivatives"),
        ({"licence": Licence(allow_derivatives=False)}, LicenceForbids, "forbids derivatives"),
        ({"status": "rejected", "reason": "NaN"}, PlanError, "rejected"),
        ({"kind": "peft"}, PlanError, "kind is peft"),
    ],
)
def test_an_expert_that_must_not_be_merged_is_not(
    change: dict[str, Any], error: type[Exception], says: str, renderer: Renderer, shelf: Shelf
) -> None:
    shelf.rows["hub:1@1"] = shelf.rows["hub:1@1"].model_copy(update=change)
    with pytest.raises(error, match=says):
        renderer.render(plan_of(), ["a cat"], [1], SAMPLER)


def test_plans_that_cannot_be_carried_out_say_why(renderer: Renderer, shelf: Shelf) -> None:
    with pytest.raises(PlanError, match="not for emoji64"):
        renderer.render(plan_of(family="sd15"), ["a cat"], [1])
    unknown = PlannedExpert(ref="hub:9@1", kind="checkpoint", coefficient=1)
    with pytest.raises(PlanError, match="hub:9@1"):
        renderer.render(plan_of(experts=(unknown,)), ["a cat"], [1])
    other = PlannedExpert(ref="hub:1@1", kind="checkpoint", coefficient=1, sha256="0" * 64)
    with pytest.raises(PlanError, match="its file is"):
        renderer.render(plan_of(experts=(other,)), ["a cat"], [1])


def test_a_file_that_changed_is_noticed(renderer: Renderer, shelf: Shelf) -> None:
    path = shelf.folder / shelf.rows["hub:1@1"].sha256
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises((PlanError, DamagedFile), match="has changed"):
        renderer.render(plan_of(), ["a cat"], [1])


def test_an_image_says_what_made_it(tmp_path: Path) -> None:
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    path = tmp_path / "new folder" / "image.png"
    save_png(path, as_image(image, plan_of()), plan_of(), "a naïve café ☕ <b>", 12)
    plan, prompt, seed, *_ = read_plan(path)
    assert (plan, prompt, seed) == (plan_of(), "a naïve café ☕ <b>", 12)
    assert [file.name for file in path.parent.iterdir()] == ["image.png"]
    with Image.open(path) as opened:
        assert opened.size == (8, 8)
        assert opened.info["Software"].startswith("diffgraph ")
        assert opened.getpixel((3, 2)) == tuple((image[:, 2, 3] * 255).round().int().tolist())


def test_half_a_character_in_a_prompt_costs_no_image(tmp_path: Path) -> None:
    image = as_image(torch.zeros(3, 8, 8), plan_of())
    save_png(tmp_path / "image.png", image, plan_of(), "a \udcff cat", 1)
    assert read_plan(tmp_path / "image.png").prompt == "a ? cat"


def test_an_image_of_someone_else_is_refused(tmp_path: Path) -> None:
    strange = tmp_path / "strange.png"
    Image.new("RGB", (4, 4)).save(strange)
    (tmp_path / "half.png").write_bytes(strange.read_bytes()[:20])
    with pytest.raises(MissingInput, match="does not say"):
        read_plan(strange)
    with pytest.raises(MissingInput, match="not a PNG"):
        read_plan(tmp_path / "half.png")
    with pytest.raises(MissingInput, match="is missing"):
        read_plan(tmp_path / "none.png")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_drawn_as_black(value: float) -> None:
    image = torch.zeros(3, 8, 8)
    image[1, 2, 3] = value
    with pytest.raises(PlanError, match=rf"plan {plan_of().id} draws no image"):
        as_image(image, plan_of())


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "cpu:1", ""])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(InputError, match="device"):
        device_of(name)
