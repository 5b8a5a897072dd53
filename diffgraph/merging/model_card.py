"""What does a merged folder tell its reader: what is in it, who made it, what is owed?

A model card as Hugging Face shows it: https://huggingface.co/docs/hub/model-cards
"""

import json
import re

from diffgraph.families import get_family
from diffgraph.merging.sources import MergeSources
from diffgraph.printable import harmless

MARKUP = re.compile(r"([\\`*_\[\]<>|#])")

CARD = """\
---
library_name: diffusers
pipeline_tag: text-to-image
license: other
tags: [merge, diffgraph]{base_model}
---

# {title}

A merge by diffgraph: plan `{plan_id}` of {family} on {base}, by the rule `{rule}`.

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(".")  # on a GPU with torch_dtype=torch.{dtype}
image = pipeline("a prompt", num_inference_steps={steps}, guidance_scale={guidance:g}).images[0]
```

## Recipe

| coefficient | expert | kind | reference | page | by | licence |
|---|---|---|---|---|---|---|
{rows}

`diffgraph.json` holds the plan: `diffgraph show plan` shows it, `diffgraph merge` makes it again.

## Licence and credits

{debts}
The base has a licence of its own.
"""


def model_card(sources: MergeSources, dtype: str) -> str:
    """Return the text of a merged folder's `README.md`; `dtype` is torch's word for its numbers."""
    plan, folder = sources.plan, sources.base.folder
    sampler = get_family(plan.family).sampler
    is_on_a_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", folder, re.ASCII)
    rows = [
        (
            *(f"{strength:.6g}", expert.name, kind, ref, expert.page_url),
            *(expert.licence.creator, expert.licence.name or "see its page"),
        )
        for kind in ("checkpoint", "peft")
        for ref, strength in sources.of_kind(kind)
        for expert in (sources.experts[ref],)
    ]
    return CARD.format(
        base_model=f"\nbase_model: {json.dumps(folder)}" if is_on_a_hub else "",
        title=f"diffgraph {plan.id}",
        plan_id=plan.id,
        family=plan.family,
        base=_plain(sources.base.name),
        rule=plan.rule,
        dtype=dtype,
        steps=sampler.steps,
        guidance=sampler.guidance,
        rows="\n".join(f"| {' | '.join(map(_plain, row))} |" for row in rows),
        debts="".join(f"- {_plain(debt)}\n" for debt in sources.debts) or "Nothing is owed.\n",
    )


def _plain(text: str) -> str:
    """Return a stranger's text as Markdown that shows it and does nothing else."""
    return MARKUP.sub(r"\\\1", " ".join(harmless(text).split())).replace("\\<", "&lt;")
