"""What an expert is: one downloadable set of weights, and the hub page it was found on."""

import re
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field, field_validator

from diffgraph.experts.coverage import CoverageReport

Kind = Literal["checkpoint", "peft"]
"""A whole model, or parameters that are added to one (LoRA, LyCORIS, …)."""

Status = Literal["ready", "registered_only", "rejected", "superseded", "retired"]
"""ready: can be merged. registered_only: known, not merged (its licence; or its weights were not
asked for). rejected: unusable. superseded: a newer version is ready. retired: gone from its hub."""

REF = re.compile(r"^(?P<source>[a-z0-9_]+):(?P<model>[\w.~/-]+)@(?P<version>[\w.~-]+)$")


class ExpertRef(BaseModel, frozen=True):
    """One exact file for ever, written `civitai:1234@5678`."""

    source: str
    model: str
    version: str

    def __str__(self) -> str:
        return f"{self.source}:{self.model}@{self.version}"

    @classmethod
    def parse(cls, text: str) -> "ExpertRef":
        """Read `source:model@version`; raises ValueError for anything else."""
        match = REF.match(text)
        if match is None:
            raise ValueError(f"not an expert reference (source:model@version): {text!r}")
        return cls(**match.groupdict())

    @property
    def lineage(self) -> str:
        """What all versions of this expert share: `source:model`."""
        return f"{self.source}:{self.model}"


NOT_KNOWN = "not known"
"""How the name of a licence begins that a person's own file does not state, or not in known words:
its owner may merge it here; whoever shares the merge has to ask."""


THIN = "Known by its file name and training tags only"
"""How the description begins of a file of which nobody wrote a page."""


class Licence(BaseModel, frozen=True):
    """What a page allows."""

    allow_derivatives: bool = True
    allow_commercial_use: tuple[str, ...] = ()
    allow_different_licence: bool = True
    credit_required: bool = False
    creator: str = ""
    name: str = ""

    @property
    def duties(self) -> tuple[str, ...]:
        """What whoever shares a merge of it has to keep, in words; empty if nothing."""
        if self.name.startswith(NOT_KNOWN):
            return (f"licence {self.name}: ask {self.creator or 'its maker'} before sharing",)
        told = []
        if not self.allow_derivatives:
            told.append("may not be merged")
        if self.credit_required:
            told.append(f"credit {self.creator or 'its maker'}")
        if not self.allow_different_licence:
            told.append("shared under the same licence only")
        sold = {use.lower() for use in self.allow_commercial_use}
        if not sold & {"sell", "image"}:
            told.append("its images may not be sold")
        return tuple(told)


class ListedFile(BaseModel, frozen=True):
    """A file that a page offers."""

    name: str
    url: str = Field(description="a path below the hub folder, or a web address")
    size_bytes: int = 0
    sha256: str = ""
    format: str = Field(default="", description="the hub's word: SafeTensor, PickleTensor, …")
    pickle_scan: str = ""
    virus_scan: str = ""


class ListedImage(BaseModel, frozen=True):
    """An example image of a page."""

    url: str
    prompt: str = ""


class Listing(BaseModel, frozen=True):
    """A hub's page about one version of an expert, before anything is downloaded."""

    ref: ExpertRef
    name: str
    description: str = Field(default="", description="as the hub gives it: HTML, untrusted")
    type: str = Field(default="", description="the hub's word: Checkpoint, LORA, LoCon, DoRA, …")
    base_model: str = Field(default="", description="the hub's word: SD 1.5, Flux.1 D, emoji64, …")
    tags: tuple[str, ...] = ()
    trigger_words: tuple[str, ...] = ()
    licence: Licence = Licence()
    file: ListedFile | None = None
    images: tuple[ListedImage, ...] = ()
    published_at: datetime | None = None
    downloads: int = 0
    rating: float | None = Field(default=None, description="0 to 5; None if nobody rated it")
    nsfw: bool = False
    real_person: bool = Field(default=False, description="it draws somebody who exists")
    minor: bool = Field(default=False, description="it draws somebody who is no adult")
    withdrawn: str = Field(default="", description="the hub's word: TakenDown, Deleted, …")
    gated: bool = Field(default=False, description="its file is given to those who agreed to terms")
    page_url: str = ""

    @property
    def is_thin(self) -> bool:
        """Whether nobody wrote a page: its file speaks for it."""
        return self.description.startswith(THIN)

    @property
    def example_prompts(self) -> tuple[str, ...]:
        """The prompts of the example images, without repeats."""
        return tuple(dict.fromkeys(image.prompt for image in self.images if image.prompt))


class Expert(BaseModel, frozen=True):
    """An expert we know, usable or not, with the reason."""

    ref: str = Field(description="an ExpertRef in its written form")
    name: str
    kind: Kind
    family: str
    sha256: str = Field(
        default="",
        description="of the weights file; names it in the library. Empty until the first use of "
        "one that stays in its owner's folder",
    )
    size_bytes: int = 0
    place: str = Field(default="", description="its path, if its file stays in its owner's folder")
    format: str = Field(default="", description="as read from the file: checkpoint, lora, loha, …")
    coverage: CoverageReport | None = Field(
        default=None, description="how well its file was understood, once it was read"
    )
    licence: Licence = Licence()
    trigger_words: tuple[str, ...] = ()
    published_at: datetime | None = None
    page_url: str = Field(default="", description="where a person finds its page")
    stated_sha256: str = Field(default="", description="of the file, as its page says")
    pickle_scan: str = Field(default="", description="what the hub's scan said: Success, Danger, …")
    virus_scan: str = ""
    page_sha256: str = Field(default="", description="of the listing; a change means a new card")
    status: Status = "ready"
    reason: str = ""

    @field_validator("ref")
    @classmethod
    def _is_a_reference(cls, value: str) -> str:
        ExpertRef.parse(value)
        return value

    @property
    def is_refused(self) -> bool:
        """Whether it will never be merged, unlike one whose weights are not here yet."""
        return self.status == "rejected" or (
            self.status == "registered_only" and not self.licence.allow_derivatives
        )

    def as_listed(self, listing: Listing, page_sha256: str) -> "Expert":
        """Return the row with what its page says of source, hash and scans."""
        file = listing.file
        return self.model_copy(
            update={
                "page_sha256": page_sha256,
                "page_url": listing.page_url,
                "stated_sha256": file.sha256 if file else "",
                "pickle_scan": file.pickle_scan if file else "",
                "virus_scan": file.virus_scan if file else "",
            }
        )
