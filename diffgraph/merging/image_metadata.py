"""What does an image of ours say beside its plan, its prompt and its seed?

What A1111 and Civitai read, how it was drawn, who made its experts and what is owed to them.
"""

from diffgraph.merging.a1111_text import CHUNK, Drawing, infotext
from diffgraph.merging.provenance import credits
from diffgraph.merging.sources import MergeSources


def image_metadata(sources: MergeSources, drawing: Drawing) -> dict[str, str]:
    """Return the further text chunks of an image, by name."""
    return {
        CHUNK: infotext(sources, drawing),
        "diffgraph.drawn_text": drawing.text,
        "diffgraph.sampler": drawing.sampler.model_dump_json(),
        **credits(sources.plan, sources.experts),
    }
