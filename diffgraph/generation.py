"""How does a merge plan become an image?

The base is loaded once and stays; the files of experts are decoded once and kept while there is
room, and what is drawn next is fetched while the device draws. The same plan, prompt and seed give
the same pixels again on the same machine. An image drawn in a batch may differ from the one drawn
alone by float rounding: less than one step of 255.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffgraph.agents.drawn_text import DrawnText, drawn_text
from diffgraph.agents.triggers import trigger_phrases
from diffgraph.artifacts import new_file, sha256_of
from diffgraph.errors import DiffgraphError, InputError, MissingInput, PlanError
from diffgraph.experts.delta import Delta
from diffgraph.experts.expert import Expert
from diffgraph.experts.reading import open_delta
from diffgraph.experts.references import may_be_cut
from diffgraph.families.family import Family, ResidentModel, SamplerConfig
from diffgraph.merging.apply import Merger, final_coefficients
from diffgraph.merging.delta_store import DEVICE_BYTES, HOST_BYTES, DeltaStore
from diffgraph.merging.k_lora import schedule
from diffgraph.merging.packing import without_copies
from diffgraph.merging.plan import MergePlan
from diffgraph.merging.plan_files import METADATA, PROMPT, SEED
from diffgraph.merging.plan_groups import PlanGroups
from diffgraph.merging.precision import whole_float32
from diffgraph.merging.provenance import ExpertLookup, expert_of
from diffgraph.version import version

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.PngImagePlugin import PngInfo


class Renderer:
    """Draws plans with one resident base model; threads take turns at it.

    Args:
        family: the base.
        library: where the experts are.
        device: `cpu`, `cuda`, `cuda:N`, or `auto` for a GPU if there is one.
        model: an already loaded base; by default the family's is loaded at first use.
        cache_bytes: for decoded experts in the host's memory.
        device_bytes: for decoded experts in a GPU's memory.
    """

    def __init__(
        self,
        family: Family,
        library: ExpertLookup,
        device: str | torch.device = "cpu",
        model: ResidentModel | None = None,
        cache_bytes: int = HOST_BYTES,
        device_bytes: int = DEVICE_BYTES,
    ) -> None:
        self.family = family
        self.library = library
        self.device = device_of(device) if model is None else model.device
        self._given = model
        self._room = cache_bytes, device_bytes
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

    @cached_property
    def _store(self) -> DeltaStore:
        return DeltaStore(self._read, self.device, *self._room)

    @cached_property
    def _base(self) -> Mapping[str, Tensor]:
        """The base's weights on the CPU, where files are read against them."""
        return {name: value.cpu() for name, value in self.merger.base.items()}

    @cached_property
    def _plan_groups(self) -> PlanGroups:
        return PlanGroups(self.merger)

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
        texts = self._texts([plan] * len(prompts), prompts, sampler)
        with self._turn, whole_float32():
            deltas = self._deltas([plan])
            return self._draw(plan, deltas, texts, seeds, sampler, on_step)

    def render_rollouts(
        self,
        plans: Sequence[MergePlan],
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampler: SamplerConfig | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Return image i as plan i draws prompt i: (plans, 3, height, width) in [0, 1].

        Plans that differ in coefficients only share their forward passes. `on_step` is called with
        the number of each denoising step, of every pass; what it raises ends the drawing.
        """
        _demand_equal_counts(plans, prompts, seeds)
        texts = self._texts(plans, prompts, sampler)
        with self._turn, whole_float32():
            return self._rollouts(plans, texts, seeds, sampler, on_step)

    def text_of(
        self, plan: MergePlan, prompt: str, sampler: SamplerConfig | None = None
    ) -> DrawnText:
        """Return what a plan draws for a prompt: so it is drawn wherever anything is.

        Raises:
            PlanError: as `render`.
        """
        return self._drawn_texts([plan], [prompt], sampler)[0]

    def deltas(self, plans: Sequence[MergePlan]) -> dict[str, Delta]:
        """Return the deltas that these plans need, by reference, decoding what is not cached."""
        with self._turn:
            return self._deltas(plans)

    def merged(self, plan: MergePlan) -> ResidentModel:
        """Return the base model with a plan merged in, as it stays until the next is drawn.

        Raises:
            PlanError, ExpertError: as `render`; or the plan is of K-LoRA, which makes no one model.
        """
        with self._turn, whole_float32():
            self._apply(plan, self._deltas([plan]))
        return self.model

    def conditioning(
        self, plan: MergePlan, prompts: Sequence[str], sampler: SamplerConfig | None = None
    ) -> dict[str, Tensor]:
        """Return prompts as the merged text encoders read them; see `ResidentModel.conditioning`.

        Raises:
            InputError: a prompt is too long.
            PlanError, ExpertError: as `merged`.
        """
        texts = self._texts([plan] * len(prompts), prompts, sampler)
        with self._turn, whole_float32():
            self._apply(plan, self._deltas([plan]))
            return self.model.conditioning(texts, sampler or self.family.sampler)

    def prefetch(self, plans: Sequence[MergePlan]) -> None:
        """Read what these plans need in the background, as far as there is room; never raises."""
        if "_base" not in self.__dict__:  # once, and not by several threads
            with self._turn:
                _ = self._base
        for plan in plans:
            for planned in plan.experts:
                with contextlib.suppress(DiffgraphError):  # told when the plan is drawn
                    self._store.prefetch([expert_of(planned, plan.family, self.library).sha256])

    def _texts(
        self, plans: Sequence[MergePlan], prompts: Sequence[str], sampler: SamplerConfig | None
    ) -> list[str]:
        return [drawn.text for drawn in self._drawn_texts(plans, prompts, sampler)]

    def _drawn_texts(
        self, plans: Sequence[MergePlan], prompts: Sequence[str], sampler: SamplerConfig | None
    ) -> list[DrawnText]:
        experts, vocabulary = self._experts(plans), self.family.vocabulary()
        if not (sampler or self.family.sampler).triggers:
            experts = {}
        called = {
            ref: (expert.name, trigger_phrases(expert.trigger_words))
            for ref, expert in experts.items()
        }
        texts = []
        for plan, prompt in zip(plans, prompts, strict=True):
            merged = sorted(called.keys() & final_coefficients(plan).keys())
            texts.append(drawn_text(prompt, vocabulary, [called[ref] for ref in merged]))
        return texts

    def _rollouts(
        self,
        plans: Sequence[MergePlan],
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampler: SamplerConfig | None,
        on_step: Callable[[int], None] | None,
    ) -> Tensor:
        deltas = self._deltas(plans)
        images: dict[int, Tensor] = {}
        sampler = sampler or self.family.sampler
        for group in self._groups(plans, deltas, prompts, sampler):
            some = [plans[place] for place in group]
            texts, noises = [prompts[place] for place in group], [seeds[place] for place in group]
            if len({plan.id for plan in some}) == 1:
                drawn = self._draw(some[0], deltas, texts, noises, sampler, on_step)
            else:
                self._applied = ""
                with self._plan_groups.rollouts(some, deltas) as model:
                    drawn = model.sample(texts, noises, sampler, on_step)
            images.update(zip(group, drawn, strict=True))
        return torch.stack([images[place] for place in range(len(plans))])

    def _groups(
        self,
        plans: Sequence[MergePlan],
        deltas: Mapping[str, Delta],
        prompts: Sequence[str],
        sampler: SamplerConfig,
    ) -> Iterator[list[int]]:
        """Yield the places of what is drawn together; each place once."""
        for alike in self.model.alike(prompts, sampler):
            for group in self._plan_groups.groups([plans[place] for place in alike], deltas):
                yield [alike[place] for place in group]

    def _draw(
        self,
        plan: MergePlan,
        deltas: Mapping[str, Delta],
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampler: SamplerConfig | None,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        sampler = sampler or self.family.sampler
        if plan.rule == "k_lora":
            on_step = self._merge_step_by_step(plan, deltas, sampler.steps, on_step)
        else:
            self._apply(plan, deltas)
        if not prompts:
            width, height = sampler.size or (self.family.resolution,) * 2
            return torch.empty(0, 3, height, width, device=self.device)
        return self.model.sample(prompts, seeds, sampler, on_step)

    def _apply(self, plan: MergePlan, deltas: Mapping[str, Delta]) -> None:
        if plan.id != self._applied:
            self._applied = ""  # a merge that fails half-way is no plan's
            self.merger.apply(plan, deltas)
            self._applied = plan.id

    def _merge_step_by_step(
        self,
        plan: MergePlan,
        deltas: Mapping[str, Delta],
        steps: int,
        told: Callable[[int], None] | None,
    ) -> Callable[[int], None]:
        """Merge what the first denoising step needs; return what merges each next one's."""
        chosen, coefficients = schedule(plan, deltas, steps), final_coefficients(plan)
        self._applied = ""
        self.merger.apply(coefficients, chosen[0])

        def on_step(step: int) -> None:
            if told is not None:
                told(step)
            # after the last comes the first: of the next images, when they are drawn in parts
            self.merger.apply(coefficients, chosen[(step + 1) % steps])

        return on_step

    def _deltas(self, plans: Sequence[MergePlan]) -> dict[str, Delta]:
        experts = self._experts(plans)
        found = self._store.get(expert.sha256 for expert in experts.values())
        return {ref: found[expert.sha256] for ref, expert in experts.items()}

    def _experts(self, plans: Sequence[MergePlan]) -> dict[str, Expert]:
        """Return the experts with a part in these plans, by reference."""
        experts: dict[str, Expert] = {}
        for plan in plans:
            if plan.family != self.family.name:
                raise PlanError(f"the plan is for {plan.family}, not for {self.family.name}")
            needed = final_coefficients(plan)
            for planned in plan.experts:
                if planned.ref in needed and planned.ref not in experts:
                    experts[planned.ref] = expert_of(planned, plan.family, self.library)
        return experts

    def _read(self, sha256: str) -> Delta:
        """Read a file of the library, if it still is that file and all its numbers are finite."""
        try:
            path = self.library.path_of(sha256)
        except MissingInput as error:
            raise PlanError(f"the plan needs a file that is gone: {error}") from error
        found = sha256_of(path)
        if found != sha256:
            raise PlanError(f"{path} has changed: {found[:12]}…, not {sha256[:12]}…")
        delta = open_delta(path, self._base, copied=may_be_cut(path))
        for name in delta.updates:
            delta.check(name)
        return without_copies(delta)


def device_of(name: str | torch.device) -> torch.device:
    """Return a device by its name; `auto` is a GPU of CUDA if there is one.

    Raises:
        InputError: there is no such device.
    """
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device("cuda" if count["cuda"] else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device {name!r}: use auto, cpu, cuda or cuda:N") from None
    if (device.index or 0) >= count.get(device.type, 0):
        here = [f"{count[kind]} of {kind}" for kind in count if count[kind]]
        raise InputError(f"device {str(name)!r} is not there: there is {', '.join(here)}")
    return device


def as_image(pixels: Tensor, plan: MergePlan) -> "Image":
    """Return an image of 8 bits a channel from (3, height, width) in [0, 1].

    Raises:
        PlanError: it holds NaN or infinite numbers: the plan's weights are too large.
    """
    from PIL import Image

    if not bool(pixels.isfinite().all()):
        raise PlanError(f"plan {plan.id} draws no image: its coefficients are too large")
    rounded = (pixels.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(rounded.permute(1, 2, 0).cpu().numpy())


def save_png(
    path: Path,
    image: "Image",
    plan: MergePlan,
    prompt: str,
    seed: int,
    more: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write an image whole, with what it was made from in its text chunks.

    Args:
        path: of the PNG file.
        image: as `as_image` makes it.
        plan: what was merged.
        prompt: what was drawn.
        seed: of the first noise.
        more: further chunks, text by name.

    Raises:
        StorageError: it cannot be written.
    """
    with new_file(path) as part:
        image.save(part, "PNG", pnginfo=png_info(plan, prompt, seed, more))


def png_info(
    plan: MergePlan, prompt: str, seed: int, more: Mapping[str, str] = MappingProxyType({})
) -> "PngInfo":
    """Return the text chunks that say what made an image."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    own = {METADATA: plan.model_dump_json(), PROMPT: prompt, SEED: str(seed)}
    for name, text in {**more, **own, "Software": f"diffgraph {version()}"}.items():
        # half a character cannot be written; what is not Latin-1 becomes an international chunk
        info.add_text(name, text.encode("utf-8", "replace").decode())
    return info


def _demand_equal_counts(*lists: Sequence[object]) -> None:
    counts = [len(items) for items in lists]
    if len(set(counts)) > 1:
        raise ValueError(f"an image needs one of each, but their counts are {counts}")
