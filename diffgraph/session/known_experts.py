"""Which experts may a plan name? Those of a home, and those that ship with the family."""

from collections.abc import Mapping
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path

from diffgraph.crawlers.folder import FolderCrawler
from diffgraph.errors import MissingInput
from diffgraph.experts.autov3 import AutoV3Hashes
from diffgraph.experts.expert import Expert, Licence, Listing
from diffgraph.experts.library import Library
from diffgraph.families import Family
from diffgraph.families.bases import base_place
from diffgraph.merging.plan import MergePlan
from diffgraph.merging.provenance import experts_of
from diffgraph.merging.sources import BaseSource, MergeSources
from diffgraph.session.snapshots import snapshot_at

SUFFIX = ".safetensors"
MODEL_FOLDERS = frozenset(
    ("loras", "lora", "lycoris", "checkpoints", "stable-diffusion", "unet", "diffusion_models")
)
"""Folders of a kind of model, below which other tools call files by their paths."""


class KnownExperts:
    """The experts of a home's library and, behind them, those that ship with the family."""

    def __init__(self, home: Path, family: Family) -> None:
        self.library = Library(home)
        self.family = family

    def get(self, ref: str) -> Expert:
        """Return the expert of this reference, its file hashed if it never was.

        Raises:
            MissingInput: it is not known, was taken out of this home, or its file has gone.
            DamagedFile: its file cannot be read.
        """
        if (why := self.library.why_removed(ref)) is not None:
            raise MissingInput(f"{ref} was removed from {self.library.folder.parent}: {why}")
        if self.library.find(ref) is None and ref in self.bundled:
            return self.bundled[ref]
        return self.library.get_hashed(ref)

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
                trigger_words=tuple(row["trigger_words"]),
                licence=Licence(
                    allow_derivatives=row["allow_derivatives"],
                    name=row["licence"],
                    creator=row["creator"],
                ),
            )
            for row in snapshot_at(folder).nodes.to_pylist()
        }

    def sources(self, plan: MergePlan, hashed: bool = False) -> MergeSources:
        """Return a plan with its files as other tools and their makers know them.

        Args:
            plan: what is merged.
            hashed: with the hashes that other tools know files by. Files are read for them; what
                was found is kept, so that a second time costs no reading.

        Raises:
            LicenceForbids, PlanError: as `experts_of`.
        """
        experts, files = self.as_listed(experts_of(plan, self))
        paths, autov3 = {}, {}
        for ref, expert in experts.items():
            with suppress(MissingInput):  # a file that is gone is told by whoever merges it
                paths[ref] = self.path_of(expert.sha256)
                if hashed and expert.kind == "peft":
                    autov3[ref] = self._autov3.of(expert.sha256, paths[ref])
        return MergeSources(plan, self._base(hashed), experts, files, paths, autov3)

    @cached_property
    def _autov3(self) -> AutoV3Hashes:
        return AutoV3Hashes(self.library.folder / "autov3.jsonl")

    def _base(self, hashed: bool) -> BaseSource:
        name = self.family.name
        try:
            place = base_place(self.family)
        except MissingInput:
            return BaseSource(name)  # it is loaded in a way of its own
        path = Path(place).expanduser()
        if not path.is_file():
            return BaseSource(name if self.family.assets is not None else path.name, place)
        beside = path.with_suffix("")
        folder = str(beside) if beside.is_dir() else self.family.usual_base
        return BaseSource(path.stem, folder, str(path), self._hash_of(path) if hashed else "")

    def _hash_of(self, path: Path) -> str:
        """Return a file's SHA-256; "" where there is no library to keep it in."""
        references = self.library.references
        known = references.known(path)
        if known is None and self.library.folder.is_dir():
            known = references.of(path)
        return known.sha256 if known else ""

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
        found: dict[str, Listing] = {}
        shipped = set()
        for ref in experts:
            if self.library.find(ref) is None:
                shipped.add(ref)
                continue
            with suppress(MissingInput):  # a page that is gone leaves what the row says
                found[ref] = self.library.listing(ref)
        if shipped and self.family.hub is not None:
            pages = _pages_of(self.family.hub)
            found |= {ref: pages[ref] for ref in shipped if ref in pages}
        return found


@cache
def _pages_of(hub: Path) -> dict[str, Listing]:
    """Return the pages of a hub that ships, by reference."""
    listings = FolderCrawler(hub).listings()
    return {str(page.ref): page for page in listings if isinstance(page, Listing)}


def _file_name(expert: Expert, page: Listing | None) -> str:
    """Return what an expert's file is called by whoever downloads it, or keeps it in a folder.

    In a folder of the owner's it is called by its path there, as ComfyUI lists it.
    """
    file = page.file if page is not None else None
    if file is not None and expert.place:
        folder, _, rest = file.url.partition("/")
        return rest if rest and folder.lower() in MODEL_FOLDERS else file.url
    for text in (file.name, file.url) if file is not None else ():
        name = text.rpartition("/")[2]
        if name.endswith(SUFFIX):
            return name
    return "".join(letter if letter.isalnum() else "_" for letter in expert.name) + SUFFIX
