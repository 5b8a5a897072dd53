"""A script of diffusers draws what we draw."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from diffgraph.artifacts import sha256_of
from diffgraph.errors import PlanError
from diffgraph.experts.expert import Expert
from diffgraph.families import flux, get_family, sd15
from diffgraph.families.family import SamplerConfig
from diffgraph.generation import Renderer, as_image
from diffgraph.merging.base_files import open_folder
from diffgraph.merging.diffusers_script import diffusers_script
from diffgraph.merging.generation_settings import GenerationSettings
from diffgraph.merging.layouts import single_file
from diffgraph.merging.plan import MergePlan, PlannedExpert
from diffgraph.merging.sources import BaseSource, MergeSources
from diffgraph.merging.to_file import FileMerge
from tests.merge_sources import sources

LOADERS: dict[str, Any] = {"sd15": sd15.load, "flux": flux.load}
LAYERS = {
    "sd15": ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
             "unet.up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_v"),
    "flux": ("transformer.transformer_blocks.0.ff.net.2",
             "transformer.single_transformer_blocks.1.proj_out"),
}  # fmt: skip
SAMPLER = SamplerConfig(steps=3, guidance=4.0)


class Shelf:
    """Two LoRAs of one layer each, strong enough to be seen."""

    def __init__(self, folder: Path, family: str, model: Any) -> None:
        self.rows: dict[str, Expert] = {}
        self.paths: dict[str, Path] = {}
        for number, layer in enumerate(LAYERS[family]):
            generator = torch.Generator().manual_seed(number)
            out, inner = model.parameters()[f"{layer}.weight"].shape
            path = folder / f"lora{number}.safetensors"
            factors = {"lora_A": (4, inner), "lora_B": (out, 4)}
            save_file({f"{layer}.{part}.weight": 2 * torch.randn(shape, generator=generator)
                       for part, shape in factors.items()}, path)  # fmt: skip
            ref = f"hub:{number}@1"
            self.paths[ref] = path
            self.rows[ref] = Expert(ref=ref, name="Ink\nimport os", kind="peft", family=family,
                                    sha256=sha256_of(path), format="lora")  # fmt: skip

    def get(self, ref: str) -> Expert:
        return self.rows[ref]

    def path_of(self, sha256: str) -> Path:
        return next(self.paths[ref] for ref, row in self.rows.items() if row.sha256 == sha256)


# diffusers reads single files of FLUX at its true width only
@pytest.mark.parametrize(("family", "is_file"), [("sd15", False), ("flux", False), ("sd15", True)])
def test_it_draws_the_plans_image(
    tmp_path: Path,
    tiny_sd15_folder: Path,
    tiny_flux_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    is_file: bool,
) -> None:
    folder = {"sd15": tiny_sd15_folder, "flux": tiny_flux_folder}[family]
    model = LOADERS[family]("cpu", torch.float32, place=str(folder))
    side = 64 if family == "sd15" else 32
    if family == "flux":
        model.resolution = side
    shelf = Shelf(tmp_path, family, model)
    experts = tuple(
        PlannedExpert(ref=ref, kind="peft", coefficient=value)
        for ref, value in zip(shelf.rows, (0.8, -0.5), strict=True)
    )
    plan = MergePlan(family=family, experts=experts)
    prompt = 'a "cat" {on} a \\ mat'
    renderer = Renderer(get_family(family), shelf, model=model)
    pixels = renderer.render(plan, [prompt], [5], SAMPLER)[0]
    bare = renderer.render(MergePlan(family=family), [prompt], [5], SAMPLER)[0]
    base = BaseSource("tiny", str(folder))
    if is_file:
        file, stored = tmp_path / "tiny.safetensors", open_folder(folder)
        merge = FileMerge(MergePlan(family=family), {}, stored)
        merge.write(file, single_file(stored), torch.float32, {"format": "pt"})
        base = base._replace(path=str(file))
    given = MergeSources(plan, base, shelf.rows, {}, shelf.paths)
    settings = GenerationSettings.of(get_family(family), prompt, SAMPLER, 5, (side, side))
    script = diffusers_script(given, settings)
    assert "diffgraph" not in script
    if family == "flux":  # the tiny tokenizer has room for fewer tokens than the true one
        script = script.replace("    width=", "    max_sequence_length=48,\n    width=")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(script, "script", "exec"), {})
    with Image.open("image.png") as opened:
        found = np.asarray(opened).astype(int)
    wanted, base = (np.asarray(as_image(one, plan)).astype(int) for one in (pixels, bare))
    assert abs(found - wanted).max() <= 1
    assert abs(base - wanted).max() > 8


def settings(text: str = "a cat", negative: str = "") -> GenerationSettings:
    written = f"{text}\nNegative prompt: {negative}" if negative else text
    return GenerationSettings.of(get_family("sd15"), written, SAMPLER, 5)


def test_a_base_and_a_checkpoint_in_one_file(tmp_path: Path) -> None:
    script = diffusers_script(sources(), settings(negative="blurry"))
    assert "from_single_file(\n    '/m/v1-5-pruned.safetensors', config='a/base'," in script
    assert "negative_prompt='blurry'" in script
    given = sources(m=1)
    given.paths["h:m@1"] = tmp_path / "one.safetensors"
    assert f"from_single_file(\n    {str(tmp_path / 'one.safetensors')!r}," in diffusers_script(
        given, settings()
    )


def test_what_diffusers_would_take_for_words_is_left_out_and_told() -> None:
    script = diffusers_script(sources(), settings("a (red:1.3) cat \\(sitting\\)", "(blurry)"))
    assert "prompt='a red cat (sitting)'," in script
    assert "negative_prompt='blurry'," in script
    assert "# with compel or sd_embed they are obeyed" in script
    assert "compel" not in diffusers_script(sources(), settings("a cat"))


def test_what_cannot_be_said_is_refused() -> None:
    for given, why in (
        (sources("ties", a=1, b=1), "the rule ties"),
        (sources(m=0.5), "mixes checkpoints"),
        (sources(a=1), "h:a@1 is a loha"),
        (sources(m=1), "not there any more"),
    ):
        with pytest.raises(PlanError, match=why):
            diffusers_script(given, settings())
