"""What every base model must do, whatever its architecture: the rooms above know only this."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from diffgraph.artifacts import sha256_of
from diffgraph.errors import InputError, MissingInput
from diffgraph.experts.expert import Expert
from diffgraph.experts.reading import read_delta
from diffgraph.families import FAMILIES, Family, SamplerConfig, flux, get_family, sd15
from diffgraph.generation import Renderer
from diffgraph.merging.apply import Merger
from diffgraph.merging.plan import MergePlan, PlannedExpert

SAMPLER = SamplerConfig(steps=2, guidance=3.0)
RANK = 2
PREFIXES = {
    "unet": "lora_unet_",
    "transformer": "lora_unet_",
    "text_encoder": "lora_te1_text_model_",
    "text_encoder_2": "lora_te3_",
}


@pytest.fixture(scope="module")
def models(tiny_model_parts: Any, tiny_sd15_folder: Path, tiny_flux_folder: Path) -> dict[str, Any]:
    """A small model of every family."""
    tiny_flux = flux.load("cpu", torch.float32, place=str(tiny_flux_folder))
    tiny_flux.resolution = 32
    return {
        "emoji64": tiny_model_parts[0],
        "sd15": sd15.load("cpu", place=str(tiny_sd15_folder)),
        "flux": tiny_flux,
    }


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, models: dict[str, Any]) -> Iterator[Any]:
    found = models[request.param]
    before = {name: value.clone() for name, value in found.parameters().items()}
    yield found
    for name, value in found.parameters().items():
        assert torch.equal(value, before[name]), f"{name}: a test left it changed"


def write_lora(model: Any, path: Path, components: tuple[str, ...] = ()) -> None:
    """Write a LoRA for the attention of components, all by default, as kohya names them."""
    generator = torch.Generator().manual_seed(7)
    tensors: dict[str, torch.Tensor] = {}
    shapes = {name: value.shape for name, value in model.parameters().items()}
    for name, shape in shapes.items():
        component, _, module = name.removesuffix(".weight").partition(".")
        if not name.endswith(("to_q.weight", "self_attn.v_proj.weight", "SelfAttention.o.weight")):
            continue
        if components and component not in components:
            continue
        key, rows = PREFIXES[component] + module.replace(".", "_"), shape[0]
        if component == "transformer":  # the makers' name, in which q, k and v are one
            kind, number = module.split(".")[:2]
            key, rows = f"lora_unet_double_blocks_{number}_img_attn_qkv", 3 * rows
            if kind == "single_transformer_blocks":
                key = f"lora_unet_single_blocks_{number}_linear1"
                rows += shapes[f"transformer.{kind}.{number}.proj_mlp.weight"][0]
        tensors[f"{key}.lora_up.weight"] = torch.randn(rows, RANK, generator=generator)
        tensors[f"{key}.lora_down.weight"] = torch.randn(RANK, shape[1], generator=generator)
        tensors[f"{key}.alpha"] = torch.tensor(1.0)
    save_file(tensors, path)


class OneExpert:
    """A library of one LoRA."""

    def __init__(self, family: str, file: Path) -> None:
        self.file = file
        self.expert = Expert(
            ref="hub:1@1", name="one", kind="peft", family=family, sha256=sha256_of(file)
        )

    def get(self, ref: str) -> Expert:
        if ref != self.expert.ref:
            raise MissingInput(ref)
        return self.expert

    def path_of(self, sha256: str) -> Path:
        return self.file


def plan_of(family: str, coefficient: float) -> MergePlan:
    expert = PlannedExpert(ref="hub:1@1", kind="peft", coefficient=coefficient)
    return MergePlan(family=family, experts=(expert,))


def test_a_family_says_what_it_is() -> None:
    for name, family in FAMILIES.items():
        assert isinstance(family, Family)
        assert (family.name, get_family(name)) == (name, family)
        assert family.hub_names
        assert family.resolution % 64 == 0


def test_every_parameter_belongs_to_a_module(model: Any) -> None:
    modules, parameters = model.modules(), model.parameters()
    for name, value in parameters.items():
        owner, _, kind = name.rpartition(".")
        assert getattr(modules[owner], kind).data_ptr() == value.data_ptr()
        assert not value.requires_grad


def test_an_image_has_the_size_that_is_asked_for(model: Any) -> None:
    wide = SAMPLER.model_copy(update={"size": (96, 64)})
    images = model.sample(["a fox", "a cup"], [1, 2], wide)
    assert images.shape == (2, 3, 64, 96)
    assert 1 <= model.images_together(wide) <= model.images_at_once
    alone = model.sample(["a cup"], [2], wide)
    torch.testing.assert_close(alone[0], images[1], rtol=0, atol=1e-4)
    usual = model.sample(["a fox"], [1], SAMPLER)
    assert usual.shape[2:] == model.sample(["a fox"], [1], None).shape[2:]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_size_that_a_family_cannot_draw_is_refused(family: Family) -> None:
    own, (least, other) = family.resolution, (family.sides[0], family.sides[-1])
    assert family.sampled(SAMPLER.model_copy(update={"size": (own, own)})).sampler == SAMPLER
    asked = SAMPLER.model_copy(update={"size": (least, other)})
    assert family.sampled(asked).sampler == asked
    for size in ((least + 1, own), (own, 100_000), (0, 0), (-8, own)):
        with pytest.raises(InputError, match=f"{family.name} cannot draw {size[0]}x{size[1]}"):
            family.sampled(SAMPLER.model_copy(update={"size": size}))
    with pytest.raises(InputError, match="only"):
        replace(family, sides=range(0)).sampled(asked)


def test_a_sampler_without_a_size_is_named_as_before_there_was_one() -> None:
    assert SamplerConfig().model_dump_json() == '{"steps":12,"guidance":4.0}'
    told = SamplerConfig(size=(96, 64)).model_dump_json()
    assert SamplerConfig.model_validate_json(told).size == (96, 64)


def test_an_image_depends_on_its_own_prompt_and_seed(model: Any) -> None:
    model.images_at_once, usual = 2, model.images_at_once  # the third is drawn in a turn of its own
    steps: list[int] = []
    together = model.sample(["a fox", "a cup", "a fox"], [1, 2, 3], SAMPLER, steps.append)
    model.images_at_once = usual
    assert steps == [0, 1, 0, 1]
    assert together.dtype == torch.float32
    assert 0 <= together.min() < together.max() <= 1
    for index, (prompt, seed) in enumerate([("a fox", 1), ("a cup", 2), ("a fox", 3)]):
        alone = model.sample([prompt], [seed], SAMPLER)
        torch.testing.assert_close(alone[0], together[index], rtol=0, atol=1e-4)
    other = model.sample(["a cup"], [1], SAMPLER)
    assert (other[0] - together[0]).abs().max() > 1e-3  # the prompt matters


def test_guidance_matters(model: Any) -> None:
    strong = SamplerConfig(steps=2, guidance=9.0)
    weak = model.sample(["a fox"], [1], SAMPLER)
    assert (model.sample(["a fox"], [1], strong) - weak).abs().max() > 1e-4


def test_embeddings_are_one_a_prompt(model: Any) -> None:
    states = model.embed(["a fox", "two cups on a table"])
    assert states.ndim == 3
    assert len(states) == 2
    assert not torch.equal(states[0], states[1])


def test_a_lora_is_merged_exactly_and_taken_out_again(model: Any, tmp_path: Path) -> None:
    write_lora(model, tmp_path / "lora.safetensors")
    merger = Merger(model)
    delta = read_delta(tmp_path / "lora.safetensors", merger.base)
    assert delta.coverage.unknown == ()
    assert {name.partition(".")[0] for name in delta.updates} == {*model.components}
    merger.apply({"one": 0.5}, {"one": delta})
    for name, value in model.parameters().items():
        update = delta.updates.get(name)
        expected = merger.base[name] + (0.5 * update.dense() if update else 0)
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    merger.reset()


@pytest.mark.parametrize("components", [(), ("unet", "transformer")])
def test_plans_are_drawn(model: Any, tmp_path: Path, components: tuple[str, ...]) -> None:
    write_lora(model, tmp_path / "lora.safetensors", components)
    side = model.sample(["x"], [0], SAMPLER).shape[-1]
    family = replace(get_family(model.family), resolution=side, sampler=SAMPLER)
    renderer = Renderer(family, OneExpert(family.name, tmp_path / "lora.safetensors"), model=model)
    plain = renderer.render(plan_of(family.name, 0.0), ["a fox"], [1])
    plans = [plan_of(family.name, value) for value in (0.0, 0.2, 0.4, 0.6, 0.8)]
    several = renderer.render_rollouts(
        plans, ["a fox"] * 5, [1] * 5
    )  # more than sd15 draws at once
    torch.testing.assert_close(several[0], plain[0], rtol=0, atol=1e-4)
    assert (several[1] - plain[0]).abs().max() > 1e-3
    one = renderer.render(plans[-1], ["a fox"], [1])
    torch.testing.assert_close(several[-1], one[0], rtol=0, atol=1e-4)
    renderer.merger.reset()
