"""How does a merge plan become an image?

The base is loaded once and stays; the files of experts are decoded once and kept while there is
room. The same plan, prompt and seed give the same pixels again on the same machine. An image drawn
in a batch may differ from the one drawn alone by float rounding: less than one step of 255.
"""

import importlib.metadata
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from pydantic import ValidationError
from torch import Tensor

from diffgraph.artifacts import new_file, sha256_of
from diffgraph.errors import LicenceForbids, MissingInput, PlanError
from diffgraph.experts.delta import Delta
from diffgraph.experts.expert import Expert
from diffgraph.experts.reading import read_delta
from diffgraph.families.family import Family, ResidentModel, SamplerConfig
from diffgraph.merging.apply import Merger, final_coefficients
from diffgraph.merging.batched import is_batchable, rollouts
from diffgraph.merging.plan import MergePlan, PlannedExpert

CACHE_BYTES = 4 << 30
"""Decoded experts beyond this are forgotten, the least recently used first."""

ROLLOUTS_TOGETHER: Mapping[str, int] = {"cpu": 16, "cuda": 64}
"""Plans that share a forward pass, by the kind of device."""

MERGEABLE = ("ready", "superseded", "retired")
"""What was merged once stays reproducible when a newer version comes or the page goes."""


class Experts(Protocol):
    """Where experts' rows and files are: `diffgraph.experts.library.Library`."""

    def get(self, ref: str) -> Expert:
        """Return the expert of this reference, or raise `MissingInput`."""
        ...

    def path_of(self, sha256: str) -> Path:
        """Return the weights file with this content, or raise `MissingInput`."""
        ...


class Renderer:
    """Draws plans with one resident base model; threads take turns at it.

    Args:
        family: the base.
        library: where the experts are.
        device: `cpu`, `cuda`, `cuda:N`, or `auto` for a GPU if there is one.
        model: an already loaded base; by default the family's is loaded at first use.
        cache_bytes: for decoded experts.
    """

    def __init__(
        self,
        family: Family,
        library: Experts,
        device: str | torch.device = "cpu",
        model: ResidentModel | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.family = family
        self.library = library
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device) if model is None else model.device
        self._given = model
        self._cache: OrderedDict[str, Delta] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._applied = ""  # id of the plan that the weights hold
        self._turn = threading.Lock()

    @cached_property
    def merger(self) -> Merger:
        """What writes merges into the base, with an untouched copy of it."""
        return Merger(self._given or self.family.load(self.device))

    @property
    def model(self) -> ResidentModel:
        """The base model, holding the last plan's weights."""
        return self.merger.model

    def render(
        self,
        plan: MergePlan,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampler: SamplerConfig | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Return one plan's image for each prompt and seed: (prompts, 3, height, width) in [0, 1].

        Args:
            plan: what is merged.
            prompts: one an image.
            seeds: likewise; an image's first noise depends on its own seed only.
            sampler: the family's own by default.
            on_step: called with the number of each denoising step.

        Raises:
            PlanError: the plan is another family's, or an expert or its file is not what it says.
            ExpertError: an expert cannot be merged.
        """
        _demand_equal_counts(prompts, seeds)
        with self._turn:
            self._apply(plan, self._deltas([plan]))
            if not prompts:
                return self._no_images()
            return self.model.sample(prompts, seeds, sampler or self.family.sampler, on_step)

    def render_rollouts(
        self,
        plans: Sequence[MergePlan],
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampler: SamplerConfig | None = None,
    ) -> Tensor:
        """Return image i as plan i draws prompt i: (plans, 3, height, width) in [0, 1].

        Plans that differ in coefficients only share their forward passes.
        """
        _demand_equal_counts(plans, prompts, seeds)
        with self._turn:
            return self._rollouts(plans, prompts, seeds, sampler or self.family.sampler)

    def deltas(self, plans: Sequence[MergePlan]) -> dict[str, Delta]:
        """Return the deltas that these plans need, by reference, decoding what is not cached."""
        with self._turn:
            return self._deltas(plans)

    def _rollouts(
        self,
        plans: Sequence[MergePlan],
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampler: SamplerConfig,
    ) -> Tensor:
        deltas = self._deltas(plans)
        images = [self._no_images()]
        most = self.model.images_at_once  # a batch that the model would split has no one order
        size = min(ROLLOUTS_TOGETHER.get(self.device.type, 1), most)
        if size > 1 and len({plan.id for plan in plans}) > 1 and is_batchable(deltas):
            for start in range(0, len(plans), size):
                part = slice(start, start + size)
                self._applied = ""
                with rollouts(self.merger, plans[part], deltas) as model:
                    images.append(model.sample(prompts[part], seeds[part], sampler))
            return torch.cat(images)
        for start, stop in _runs([plan.id for plan in plans]):
            self._apply(plans[start], deltas)
            part = slice(start, stop)
            images.append(self.model.sample(prompts[part], seeds[part], sampler))
        return torch.cat(images)

    def _deltas(self, plans: Sequence[MergePlan]) -> dict[str, Delta]:
        found: dict[str, Delta] = {}
        for plan in plans:
            if plan.family != self.family.name:
                raise PlanError(f"the plan is for {plan.family}, not for {self.family.name}")
            needed = final_coefficients(plan)
            for planned in plan.experts:
                if planned.ref in needed and planned.ref not in found:
                    found[planned.ref] = self._delta(self._expert(planned))
        self._forget(keep=len(found))
        return found

    def _apply(self, plan: MergePlan, deltas: Mapping[str, Delta]) -> None:
        if plan.id != self._applied:
            self._applied = ""  # a merge that fails half-way is no plan's
            self.merger.apply(plan, deltas)
            self._applied = plan.id

    def _expert(self, planned: PlannedExpert) -> Expert:
        """Return the library's row of a planned expert, or say why it cannot be merged."""
        try:
            expert = self.library.get(planned.ref)
        except MissingInput as error:
            raise PlanError(f"the plan needs {planned.ref}: {error}") from error
        if expert.status == "registered_only":
            raise LicenceForbids(f"{planned.ref} may not be merged: {expert.reason}")
        if expert.status not in MERGEABLE:
            raise PlanError(f"{planned.ref} is {expert.status}: {expert.reason}")
        for what, ours, theirs in (
            ("family", expert.family, self.family.name),
            ("kind", expert.kind, planned.kind),
            ("file", expert.sha256, planned.sha256 or expert.sha256),
        ):
            if ours != theirs:
                raise PlanError(f"{planned.ref}: its {what} is {ours}, the plan needs {theirs}")
        return expert

    def _delta(self, expert: Expert) -> Delta:
        if expert.sha256 in self._cache:
            self._cache.move_to_end(expert.sha256)
            return self._cache[expert.sha256]
        try:
            path = self.library.path_of(expert.sha256)
        except MissingInput as error:
            raise PlanError(f"the plan needs {expert.ref}: {error}") from error
        found = sha256_of(path)
        if found != expert.sha256:
            raise PlanError(f"{path} has changed: {found[:12]}…, not {expert.sha256[:12]}…")
        delta = read_delta(path, self.merger.base).to(self.device)
        self._cache[expert.sha256] = delta
        return delta

    def _forget(self, keep: int) -> None:
        """Drop what was used least recently while the cache is over its size."""
        held = sum(delta.bytes for delta in self._cache.values())
        while held > self._cache_bytes and len(self._cache) > keep:
            held -= self._cache.popitem(last=False)[1].bytes

    def _no_images(self) -> Tensor:
        side = self.family.resolution
        return torch.empty(0, 3, side, side, device=self.device)


class Drawn(NamedTuple):
    """What an image was made from."""

    plan: MergePlan
    prompt: str
    seed: int


def save_png(path: Path, image: Tensor, plan: MergePlan, prompt: str, seed: int) -> None:
    """Write an image whole, with what it was made from in its text chunks.

    Args:
        path: of the PNG file.
        image: (3, height, width) in [0, 1].
        plan: what was merged.
        prompt: what was drawn.
        seed: of the first noise.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt("prompt", prompt)
    info.add_text("seed", str(seed))
    info.add_itxt("plan", plan.model_dump_json())
    info.add_text("Software", f"diffgraph {code_version()}")
    pixels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    with new_file(path) as part:
        Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy()).save(part, "PNG", pnginfo=info)


def read_png(path: Path) -> Drawn:
    """Return what an image of ours was made from; raises `MissingInput` for any other file."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as image:
            texts = dict(image.info)
        plan = MergePlan.model_validate_json(texts["plan"])
        return Drawn(plan, str(texts["prompt"]), int(texts["seed"]))
    except FileNotFoundError as error:
        raise MissingInput(f"no image at {path}") from error
    except (KeyError, ValidationError) as error:
        raise MissingInput(f"{path} does not say which plan made it") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise MissingInput(f"{path} is not a PNG image that can be read") from error


def code_version() -> str:
    """Return the version of this package."""
    try:
        return importlib.metadata.version("diffgraph")
    except importlib.metadata.PackageNotFoundError:
        return "from source"


def _demand_equal_counts(*lists: Sequence[object]) -> None:
    counts = [len(items) for items in lists]
    if len(set(counts)) > 1:
        raise ValueError(f"an image needs one of each, but their counts are {counts}")


def _runs(ids: Sequence[str]) -> list[tuple[int, int]]:
    """Return (start, stop) of each stretch of equal ids."""
    starts = [index for index in range(len(ids)) if index == 0 or ids[index] != ids[index - 1]]
    return list(zip(starts, [*starts[1:], len(ids)], strict=True))
