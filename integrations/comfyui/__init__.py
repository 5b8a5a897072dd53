"""Which experts does a prompt need? A node for ComfyUI that chooses and applies them.

Put this folder into ComfyUI's `custom_nodes`; see README.md.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffgraph.merging.sources import MergeSources
    from diffgraph.session import Session
    from diffgraph.session.drawing import Prepared

OUR_FAMILY = "sd15"


class ChooseExperts:
    """Applies the LoRAs of a diffgraph home that a prompt asks for, as LoraLoader would."""

    CATEGORY = "loaders"
    FUNCTION = "choose"
    RETURN_TYPES = ("MODEL", "CLIP", "STRING", "STRING", "STRING")
    RETURN_NAMES = ("model", "clip", "text", "negative", "reasons")
    DESCRIPTION = __doc__

    def __init__(self) -> None:
        self.loaded: dict[str, Any] = {}  # path -> tensors, of the last plan's files only

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, tuple[Any, ...]]]:  # noqa: N802 (ComfyUI's name)
        """Return what the node shows, in ComfyUI's words."""
        from diffgraph.families import FAMILIES

        families = sorted(FAMILIES, key=lambda name: name != OUR_FAMILY)
        return {
            "required": {
                "model": ("MODEL",),
                "clip": ("CLIP",),
                "prompt": ("STRING", {"multiline": True, "tooltip": "Tags of LoRAs are obeyed."}),
                "family": (families, {"tooltip": "What the checkpoint is of."}),
            },
            "optional": {
                "home": ("STRING", {"default": "", "tooltip": "Empty: where diffgraph keeps it."}),
                "plan": (
                    "STRING",
                    {"default": "", "tooltip": "A plan or an image of ours to use."},
                ),
            },
        }

    @classmethod
    def IS_CHANGED(  # noqa: N802 (ComfyUI's name)
        cls, family: str, home: str = "", plan: str = "", **_: Any
    ) -> str:
        """Return what the choice depends on beside the inputs: graph or plan, and never a seed."""
        session = _session(home, family)
        if plan.strip():
            return _prepared(session, "", plan).plan.id
        return f"{session.graph.id} {session.planner_id}"

    def choose(
        self, model: Any, clip: Any, prompt: str, family: str, home: str = "", plan: str = ""
    ) -> tuple[Any, Any, str, str, str]:
        """Return the model and text encoder with LoRAs, what to encode, and why.

        Raises:
            DiffgraphError: nothing can be chosen, or it is no plain sum of LoRAs.
        """
        import comfy.sd
        import comfy.utils

        from diffgraph.session.drawing import settings_of

        session = _session(home, family)
        prepared = _prepared(session, prompt, plan)
        sources = session.experts.sources(prepared.plan)
        files = {str(sources.path_of(ref)): strength for ref, strength in _loras(sources)}
        self.loaded = {path: self.loaded[path] for path in files if path in self.loaded}
        for path, strength in files.items():
            if path not in self.loaded:
                self.loaded[path] = comfy.utils.load_torch_file(path, safe_load=True)
            model, clip = comfy.sd.load_lora_for_models(
                model, clip, self.loaded[path], strength, strength
            )
        told = settings_of(session, prepared.plan, prepared.prompt)
        owed = (f"owed: {debt}" for debt in sources.debts)
        reasons = (*prepared.notes, *prepared.reasons, *owed)
        return model, clip, told.text, told.negative, "\n".join(reasons)


def _session(home: str, family: str) -> "Session":
    from pathlib import Path

    from diffgraph.session import Session
    from diffgraph.settings import Settings

    settings = Settings(home=Path(home).expanduser()) if home.strip() else Settings()
    return Session.of(settings, family)


def _prepared(session: "Session", prompt: str, plan: str) -> "Prepared":
    """Return what is merged for a prompt, or by a given plan.

    Experts that are whole models are left out: which one is drawn with is wired in.
    """
    from diffgraph.session.deciding import choices_of
    from diffgraph.session.drawing import Prepared, given_plan, prepare

    if plan.strip():
        written = given_plan(plan.strip(), session.family_name)
        reasons = (f"as planned in {plan.strip()}", *written.reasons)
        return Prepared(prompt, written.plan, session.family.sampler, reasons)
    nodes = session.graph.nodes.select(["ref", "kind"]).to_pylist()
    whole = [node["ref"] for node in nodes if node["kind"] == "checkpoint"]
    return prepare(session, prompt, choices=choices_of((), whole, only=False))


def _loras(sources: "MergeSources") -> list[tuple[str, float]]:
    """Return the strength of each LoRA; raises `PlanError` if a plan is more than their sum."""
    from diffgraph.errors import PlanError

    sources.demand_linear("a chain of LoRAs")
    if whole := sources.of_kind("checkpoint"):
        raise PlanError(
            f"the plan merges {whole[0][0]}, a whole model, which a chain of LoRAs cannot: "
            "`diffgraph merge` writes a file for CheckpointLoaderSimple"
        )
    return sources.of_kind("peft")


NODE_CLASS_MAPPINGS = {"DiffgraphChooseExperts": ChooseExperts}
NODE_DISPLAY_NAME_MAPPINGS = {"DiffgraphChooseExperts": "Choose LoRAs for a prompt (diffgraph)"}
