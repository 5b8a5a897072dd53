"""Which page does a file have that nobody published?

What is known comes from its sidecars, its own header and its name, in this order; what it was made
for, from the shapes of its tensors, whatever is said of it.
"""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from diffgraph.crawlers.civitai_pages import PROMPT_CHARACTERS, text
from diffgraph.crawlers.file_metadata import FileMetadata, combined, licence_of_a_file
from diffgraph.crawlers.image_prompts import prompt_in
from diffgraph.crawlers.sidecars import previews, read_sidecars
from diffgraph.crawlers.training_header import read_header
from diffgraph.errors import ExpertError
from diffgraph.experts.expert import THIN, ExpertRef, ListedFile, ListedImage, Listing
from diffgraph.experts.peft_configuration import PEFT_WEIGHTS
from diffgraph.families import Family

if TYPE_CHECKING:
    from diffgraph.experts.weights_file import WeightsFile

NAME_CHARACTERS = 200


class FilePage(NamedTuple):
    """A file's page, and what beside it could not be read."""

    listing: Listing
    unread: tuple[tuple[str, str], ...]
    stated: tuple[tuple[str, str], ...]
    """Sidecar → the SHA-256 of the file that it speaks of."""
    is_told: bool
    """Whether names and shapes tell that it is the family's, so that its numbers can wait."""


def page_of(
    file: Path,
    shown: str,
    ref: ExpertRef,
    family: Family,
    present: frozenset[str],
    sha256: str = "",
    of_hub: FileMetadata | None = None,
) -> FilePage:
    """Return the page of a file.

    Args:
        file: A safetensors file.
        shown: Its path below the folder that is looked through.
        ref: What it is called.
        family: Whose experts are wanted.
        present: The names of what lies beside it.
        sha256: Of the file, if it is known: a sidecar that speaks of another one is left out.
        of_hub: What a hub says of it.

    Raises:
        ExpertError, MissingInput: it is no weights file that can be read.
    """
    from diffgraph.experts.adapter_files import is_adapter
    from diffgraph.experts.base_models import family_in, made_for
    from diffgraph.experts.weights_file import open_weights

    about = file.stat()
    beside = read_sidecars(file, present, about.st_size)
    sources = [of_hub] if of_hub is not None else []
    liars = {name for name, said in beside.said if sha256 and said.sha256 not in ("", sha256)}
    said = [(name, stated) for name, stated in beside.said if name not in liars]
    ours = next(filter(None, map(family_in, family.hub_names)), "")
    weights = open_weights(file)  # of the mapped numbers, none is looked at
    header, unread = read_header(weights.metadata)
    shapes, adapts = made_for(weights), is_adapter(weights)
    is_told = bool(ours) and shapes == ours and _may_be_merged(weights, ours, family)
    is_told = is_told and not (adapts and _is_quantised(weights))
    lies = [
        (name, f"says that it is for {base}, its shapes are those of {shapes}: they are believed")
        for name, stated in said
        if shapes and (base := family_in(stated.base_model)) and base != shapes
    ]
    published = [*(stated for _, stated in said), *sources]
    known = combined([*published, header])
    stem = file.parent.name if file.name == PEFT_WEIGHTS else file.stem
    listing = Listing(
        ref=ref,
        name=text(known.name or stem, NAME_CHARACTERS) or "unnamed",
        description=_description(known, is_thin=not any(one.description for one in published)),
        type="LORA" if adapts else "Checkpoint",
        base_model=shapes if shapes and shapes != ours else family.hub_names[0],
        tags=known.tags,
        trigger_words=known.trigger_words,
        licence=known.licence or licence_of_a_file("", ""),
        file=ListedFile(
            name=file.name,
            url=shown,
            size_bytes=about.st_size,
            sha256=next((one.sha256 for _, one in said if one.sha256), ""),
            format="SafeTensor",
        ),
        images=(
            *(
                ListedImage(url=name, prompt=prompt_in(file.with_name(name)))
                for name in previews(file, present)
            ),
            *(ListedImage(url="", prompt=text(one, PROMPT_CHARACTERS)) for one in known.prompts),
        ),
        published_at=known.published_at or datetime.fromtimestamp(int(about.st_mtime), UTC),
        nsfw=known.nsfw,
        real_person=known.real_person,
        minor=known.minor,
        withdrawn=known.withdrawn,
        page_url=shown,
    )
    return FilePage(
        listing,
        (
            *beside.unread,
            *((name, "speaks of another file, by its hash") for name in sorted(liars)),
            *lies,
            *((file.name, why) for why in unread),
        ),
        tuple((name, stated.sha256) for name, stated in said if stated.sha256),
        is_told,
    )


def model_of(shown: str) -> str:
    """Return the part of a reference that stands for a path below the folder."""
    path = Path(shown)
    path = path.parent if path.name == PEFT_WEIGHTS and path.parent.name else path.with_suffix("")
    return re.sub(r"[^\w.~/-]+", "_", path.as_posix())[-120:].strip("/") or "unnamed"


def _may_be_merged(weights: "WeightsFile", ours: str, family: Family) -> bool:
    from diffgraph.experts.base_models import refuse_other_statement
    from diffgraph.experts.unsupported_files import refuse_unmergeable

    try:
        refuse_unmergeable(weights, family.prediction)
        refuse_other_statement(weights, ours)
    except ExpertError:
        return False
    return True


def _is_quantised(weights: "WeightsFile") -> bool:
    """Return whether some numbers may be codes: who they are is not told by the header alone."""
    types = {entry.dtype for entry in weights.entries.values()}
    return any(not dtype.is_floating_point or dtype.itemsize == 1 for dtype in types)


def _description(known: FileMetadata, is_thin: bool) -> str:
    """Return what is said, its strength where a page would say it; of a thin page, that it is."""
    lines = [known.description] if known.description else []
    if is_thin and not known.description:
        lines.append(f"{THIN}: {', '.join(known.tags)}." if known.tags else f"{THIN}.")
    if known.strength is not None:
        lines.append(f"Recommended weight: {known.strength:g}.")
    return "\n".join(lines)
