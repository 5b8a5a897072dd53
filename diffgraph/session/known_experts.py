"""Which experts may a plan name? Those of a home, and those that ship with the family."""

from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from diffgraph.crawlers.folder import FolderCrawler
from diffgraph.errors import MissingInput
from diffgraph.experts.expert import Expert, Licence, Listing
from diffgraph.experts.library import Library
from diffgraph.families import Family
from diffgraph.session.snapshots import snapshot_at

SUFFIX = ".safetensors"


class KnownExperts:
    """The experts of a home's library and, behind them, those that ship with the family."""

    def __init__(self, home: Path, family: Family) -> None:
        self.library = Library(home)
        self.family = family

    def get(self, ref: str) -> Expert:
        """Return the expert of this reference.

        Raises:
            MissingInput: it is not known, or was taken out of this home.
        """
        if (why := self.library.why_removed(ref)) is not None:
            raise MissingInput(f"{ref} was removed from {self.library.folder.parent}: {why}")
        return self.library.find(ref) or self.bundled.get(ref) or self.library.get(ref)

    def path_of(self, sha256: str) -> Path:
        """Return the weights file with this content; raises `MissingInput`."""
        return self.library.path_of(sha256)

    @cached_property
    def bundled(self) -> dict[str, Expert]:
        """The experts of the snapshot that ships with the family."""
        folder = self.family.assets and self.family.assets / "snapshot"
        if not folder or not folder.is_dir():
            return {}
        kept = ("ref", "kind", "family", "name", "sha256", "size_bytes", "format", "status")
        return {
            row["ref"]: Expert(
                **{name: row[name] for name in kept},
                reason=row["reason"],
                licence=Licence(
                    allow_derivatives=row["allow_derivatives"],
                    name=row["licence"],
                    creator=row["creator"],
                ),
            )
            for row in snapshot_at(folder).nodes.to_pylist()
        }

    def as_listed(self, experts: Mapping[str, Expert]) -> tuple[dict[str, Expert], dict[str, str]]:
        """Return experts with the licences of their pages, and what hubs call their files.

        The graph that ships with a family keeps less of a page than the page, which ships as well.
        """
        pages = self._pages(experts)
        told, files = {}, {}
        for ref, expert in experts.items():
            page = pages.get(ref)
            told[ref] = expert
            if page is not None:
                shown = {"licence": page.licence, "page_url": page.page_url}
                told[ref] = expert.model_copy(update=shown)
            files[ref] = _file_name(expert, page)
        return told, files

    def _pages(self, experts: Mapping[str, Expert]) -> dict[str, Listing]:
        found, shipped = {}, set()
        for ref in experts:
            if self.library.find(ref) is None:
                shipped.add(ref)
                continue
            with suppress(MissingInput):  # a page that is gone leaves what the row says
                found[ref] = self.library.listing(ref)
        if shipped and self.family.hub is not None:
            for page in FolderCrawler(self.family.hub).listings():
                if isinstance(page, Listing) and str(page.ref) in shipped:
                    found[str(page.ref)] = page
        return found


def _file_name(expert: Expert, page: Listing | None) -> str:
    """Return what an expert's file is called by whoever downloads it from its page."""
    file = page.file if page is not None else None
    for text in (file.name, file.url) if file is not None else ():
        name = text.rpartition("/")[2]
        if name.endswith(SUFFIX):
            return name
    return "".join(letter if letter.isalnum() else "_" for letter in expert.name) + SUFFIX
