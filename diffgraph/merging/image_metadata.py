"""What does an image of ours say beside its plan, its prompt and its seed?

What A1111 and Civitai read, how it was drawn, who made its experts and what is owed to them.
"""

from collections.abc import Sequence

from diffgraph.merging.a1111_text import CHUNK, infotext
from diffgraph.merging.generation_settings import GenerationSettings
from diffgraph.merging.plan_files import REASONS, SAMPLER
from diffgraph.merging.provenance import told_credits
from diffgraph.merging.sources import MergeSources


def image_metadata(
    sources: MergeSources, drawn: GenerationSettings, reasons: Sequence[str] = ()
) -> dict[str, str]:
    """Return the further text chunks of an image, by name; `reasons` are those of its experts."""
    return {
        **({REASONS: "\n".join(reasons)} if reasons else {}),
        CHUNK: infotext(sources, drawn),
        "diffgraph.drawn_text": drawn.text,
        SAMPLER: drawn.sampler.model_dump_json(),
        **told_credits(sources.plan, sources.experts),
    }
