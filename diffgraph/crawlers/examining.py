"""Must a listing be refused before anything is downloaded?

What must not be merged, or cannot be checked, is refused by its page alone: another base
model, what is no set of weights, real people, what is not safe for work, files that could run code
or that a scanner doubts.
"""

from datetime import UTC, datetime
from pathlib import PurePosixPath

from pydantic import BaseModel, Field

from diffgraph.crawlers.content import ContentConfig, check_content
from diffgraph.crawlers.licences import NONE_STATED, is_known
from diffgraph.errors import ExpertError, LicenceForbids, UnusableListing
from diffgraph.experts.expert import ListedFile, Listing
from diffgraph.experts.references import LARGEST_FILE
from diffgraph.families import Family

PEFT_TYPES = ("lora", "locon", "dora", "lycoris", "loha", "lokr")
CHECKPOINT_TYPES = ("checkpoint",)
CODE = {".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle", ".zip", ".7z", ".rar"}


class DiscoveryConfig(BaseModel, frozen=True):
    """How much of a hub is looked at, and what is asked of it.

    What `limit`, `since` and `until` leave out stays as it was, for another time; what has too few
    downloads or too low a rating is refused.
    """

    limit: int | None = Field(default=None, ge=1, description="new or changed experts taken")
    since: datetime | None = Field(default=None, description="published, at the earliest")
    until: datetime | None = Field(default=None, description="published, at the latest")
    metadata_only: bool = Field(default=False, description="keep pages, fetch no weights")
    minimum_downloads: int = Field(default=0, ge=0)
    minimum_rating: float = Field(default=0.0, ge=0.0, le=5.0)
    content: ContentConfig = ContentConfig()

    def wants(self, listing: Listing, taken: int) -> bool:
        """Return whether to look at a listing when so many new or changed ones were taken."""
        return not self.is_enough(taken) and self.is_in_window(listing)

    def is_enough(self, taken: int) -> bool:
        """Return whether as many were taken as were asked for."""
        return self.limit is not None and taken >= self.limit

    def is_in_window(self, listing: Listing) -> bool:
        """Return whether it was published when it should; without a date, it was."""
        if listing.published_at is None:
            return True
        moment = in_utc(listing.published_at)
        return (self.since is None or moment >= in_utc(self.since)) and (
            self.until is None or moment <= in_utc(self.until)
        )


def in_utc(moment: datetime) -> datetime:
    """Return the moment with a time zone; without one it is meant to be UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def examine(listing: Listing, family: Family, config: DiscoveryConfig | None = None) -> str | None:
    """Return why a listing must be refused before any download; None if it need not be."""
    try:
        check(listing, family, config)
    except ExpertError as error:
        return str(error)
    return None


def may_be_drawn(listing: Listing, config: DiscoveryConfig | None = None) -> bool:
    """Return whether nothing rules out what it draws: a rule holds for those we have, too."""
    try:
        check_content(listing, config.content if config else ContentConfig())
    except ExpertError:
        return False
    return True


def check(listing: Listing, family: Family, config: DiscoveryConfig | None = None) -> None:
    """Raise the error that rules a listing out.

    Raises:
        NotMergeable: It may be known, not merged.
        UnusableListing: It cannot be used.
    """
    base_model = listing.base_model.strip()
    if base_model.lower() not in {name.lower() for name in family.hub_names}:
        # every hub has its own words for a base: those of the other hubs would explain nothing
        alike = [name for name in family.hub_names if ("/" in name) == ("/" in base_model)]
        ours = " or ".join(map(repr, alike or family.hub_names))
        raise UnusableListing(f"made for {base_model!r}, not for {ours}")
    if listing.type and listing.type.lower() not in CHECKPOINT_TYPES + PEFT_TYPES:
        raise UnusableListing(f"{listing.type!r} is no set of weights that can be merged")
    check_content(listing, config.content if config else ContentConfig())
    if config is not None:
        _check_favour(listing, config)
    if not listing.licence.allow_derivatives:
        name = listing.licence.name
        if name and not is_known(name):
            found = "" if name == NONE_STATED else f" ({name[:60]!r})"
            raise LicenceForbids(
                f"its page states no licence that we know{found}, so none permits a merge"
            )
        raise LicenceForbids("its page forbids derivatives, and a merge is one")
    _check_file(listing.file)


def _check_favour(listing: Listing, config: DiscoveryConfig) -> None:
    """Ask what others think of it."""
    if listing.downloads < config.minimum_downloads:
        raise UnusableListing(
            f"downloaded {listing.downloads} times, fewer than {config.minimum_downloads}"
        )
    if config.minimum_rating and (listing.rating or 0.0) < config.minimum_rating:
        found = "nobody rated it" if listing.rating is None else f"rated {listing.rating:.1f}"
        raise UnusableListing(f"{found}, expected {config.minimum_rating:.1f} at least")


def _check_file(file: ListedFile | None) -> None:
    if file is None or not file.url:
        raise UnusableListing("offers no file (early access, or taken down)")
    if file.format.lower() == "diffusers":
        raise UnusableListing(
            "offers only parts of a model (an autoencoder, adapters of single components); "
            "expected a SafeTensor file, or a folder with a unet or a transformer"
        )
    if file.format.lower() not in {"safetensor", "safetensors", ""}:
        why = ", which could run code" if "pickle" in file.format.lower() else ""
        raise UnusableListing(f"offers only {file.format} files{why}; expected SafeTensor")
    if (ending := PurePosixPath(file.name).suffix.lower()) in CODE:
        raise UnusableListing(f"offers only {ending} files, which could run code")
    for scan, result in (("pickle", file.pickle_scan), ("virus", file.virus_scan)):
        if result.lower() not in {"success", ""}:
            raise UnusableListing(f"the hub's {scan} scan says {result!r}, not 'Success'")
    if file.size_bytes > LARGEST_FILE:
        raise UnusableListing(f"its file is said to have {file.size_bytes >> 30} GiB")
