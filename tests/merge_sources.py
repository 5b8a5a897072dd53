"""Plans of a few made files: `a` and `b` are LoRAs, `m` and `n` checkpoints."""

from diffgraph.experts.expert import Expert
from diffgraph.merging.plan import MergePlan, PlannedExpert
from diffgraph.merging.sources import BaseSource, MergeSources

FILES = {"h:a@1": "pencil v2.safetensors", "h:b@1": "styles/night, (x).safetensors",
         "h:m@1": "one.safetensors", "h:n@1": "two.safetensors"}  # fmt: skip
BASE = BaseSource("v1-5-pruned", "a/base", "/m/v1-5-pruned.safetensors", "ba5e" * 16)


def sources(
    rule: str = "linear", base: BaseSource = BASE, files: dict[str, str] = FILES, **parts: float
) -> MergeSources:
    kinds = {name: "checkpoint" if name in "mn" else "peft" for name in parts}
    planned = tuple(
        PlannedExpert(ref=f"h:{name}@1", kind=kinds[name], coefficient=value)
        for name, value in parts.items()
    )
    experts = {
        f"h:{name}@1": Expert(ref=f"h:{name}@1", name=name, kind=kinds[name], family="sd15",
                              sha256=f"{ord(name):x}" * 32, format="loha")
        for name in parts
    }  # fmt: skip
    plan = MergePlan(family="sd15", experts=planned, rule=rule)
    autov3 = {ref: ref[2] * 12 for ref in experts if kinds[ref[2]] == "peft"}
    return MergeSources(plan, base, experts, files, {}, autov3)
