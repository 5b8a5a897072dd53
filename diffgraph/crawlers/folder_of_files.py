"""Which experts lie in a folder of weights files, as tools that draw keep them?

Any tree of safetensors. Files stay where they are and are referred to by path and content. The
pages come first, from headers and sidecars; then each file is hashed and judged: a run that was
stopped goes on with the rest. `library/folders/<name>.<family>.jsonl` keeps the page of every file
as long as neither it nor what lies beside it changes. A file that is renamed or moved below its
folder stays the same expert, one that is replaced is its new version, one that is gone is retired.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from pydantic import BaseModel, ValidationError

from diffgraph.artifacts import append_lines, new_file, storing
from diffgraph.crawlers.crawler import BrokenPage, Crawler
from diffgraph.crawlers.file_page import model_of, page_of
from diffgraph.crawlers.hub_names import name_for, note
from diffgraph.crawlers.sidecars import endings
from diffgraph.crawlers.weights_tree import WEIGHTS, FoundFile, names, walk
from diffgraph.errors import ExpertError, MissingInput
from diffgraph.experts.expert import ExpertRef, Listing
from diffgraph.experts.library import Library
from diffgraph.experts.references import Reference, mark_of
from diffgraph.families import Family
from diffgraph.permissions import make_folder
from diffgraph.printable import printable
from diffgraph.progress import report

log = logging.getLogger(__name__)

SPARE_LINES = 1000
MISSING_DISK = ": is a disk missing? nobody is retired"
MOST_COMPARED = 200  # files, of a folder that may be one that was moved


class Noted(BaseModel, frozen=True):
    """What was found about a file, until it or what lies beside it changes."""

    path: str
    stamp: str
    mark: str
    listing: Listing | None
    unread: tuple[tuple[str, str], ...] = ()
    stated: tuple[tuple[str, str], ...] = ()
    is_told: bool = False
    """Whether its header tells that it is the family's."""


class FolderOfFiles(Crawler):
    """Reads a tree of weights files.

    Args:
        path: The folder.
        family: Whose experts are wanted.
        library: What is known so far.

    Raises:
        MissingInput: There is no such folder, or no weights file below it.
    """

    def __init__(self, path: Path, family: Family, library: Library) -> None:
        self.folder = path.resolve()
        if not self.folder.is_dir():
            raise MissingInput(f"no folder of weights files at {path}")
        self.family, self.library = family, library
        self.source = name_for(self.folder, library, self._holds_files_of)
        self._table = library.folder / "folders" / f"{self.source}.{family.name}.jsonl"
        self._noted, self._lines = self._read()
        self._new: list[Noted] = []
        self._seen: dict[str, Noted] = {}
        self._is_whole = True
        self._total: int | None = None
        self._new_names: list[Path] = []
        self._by_size: dict[int, list[Path]] | None = None
        self._others: Counter[str] = Counter()
        if not self._noted and not any(names(self.folder)):
            raise MissingInput(
                f"{path} is no hub folder (it has no hub.json), and no {WEIGHTS} file lies below it"
            )

    def begin(self, library: Library) -> None:
        """Note the folder's name, by which its experts are called."""
        note(self.source, self.folder, library)

    @property
    def keeps_files(self) -> bool:
        """Whether files stay where they are: yes."""
        return True

    @property
    def total(self) -> int | None:
        """How many files there are, once they have been counted."""
        return self._total

    @property
    def is_whole(self) -> bool:
        """Whether the whole tree could be looked through."""
        return self._is_whole

    def listings(self) -> Iterator[Listing | BrokenPage]:
        """Yield a page a file, and a line for each that has none."""
        self._is_whole, self._seen = True, {}
        self._count()
        self._others.clear()
        marks = {one.mark: one for one in self._noted.values() if one.listing}
        models = {one.listing.ref.model: one.mark for one in marks.values() if one.listing}
        for found in walk(self.folder, self._others):
            if isinstance(found, BrokenPage):
                self._is_whole = False
                yield found
                continue
            yield from self._at(found, marks, models)
        if self._others:
            kinds = ", ".join(f"{count} {ending}" for ending, count in sorted(self._others.items()))
            yield BrokenPage(where=self.source, reason=f"not read, could run code: {kinds}")
        for link in self._links_to_nowhere():
            self._is_whole = False
            yield BrokenPage(where=printable(str(link)), reason=f"leads nowhere{MISSING_DISK}")
        if not self._seen and self._noted:
            self._is_whole = False
            why = f"holds no weights file any more{MISSING_DISK}"
            yield BrokenPage(where=printable(str(self.folder)), reason=why)

    def fetch(self, listing: Listing, folder: Path) -> Path:
        """Return where the file is: it is not brought anywhere."""
        del folder
        return self.folder / (listing.file.url if listing.file else "")

    def refer(self, listing: Listing) -> tuple[Listing, Reference]:
        """Return the page and the reference of its file, hashed unless it was before.

        A sidecar that speaks of another file by its hash is left out of the page, and told.
        """
        path = self.fetch(listing, self.folder)
        found = self.library.references.of(path)
        noted = self._seen.get(str(path)) or self._noted.get(str(path))
        others = [name for name, sha256 in noted.stated if sha256 != found.sha256] if noted else []
        if noted is None or not others:
            return listing, found
        log.warning("%s: %s speaks of another file, by its hash; the expert is known without it",
                    path, printable(", ".join(others)))  # fmt: skip
        present = frozenset(os.listdir(path.parent))
        believed = [name + ending for name in (path.stem,) for ending in endings()]
        page = page_of(
            path, listing.page_url, listing.ref, self.family, present,
            [name for name in believed if name not in others],
        )  # fmt: skip
        unread = (*page.unread, *((name, "speaks of another file, by its hash") for name in others))
        self._note(noted.model_copy(
            update={"listing": page.listing, "unread": unread, "stated": page.stated}
        ))  # fmt: skip
        return page.listing, found

    def place_of(self, listing: Listing) -> Path | None:
        """Return where a file is whose header tells that it is the family's; None of others."""
        path = self.fetch(listing, self.folder)
        noted = self._seen.get(str(path))
        return path if noted is not None and noted.is_told else None

    def keep(self) -> None:
        """Write down what was found since the last time."""
        if self._new:
            lines = b"".join(one.model_dump_json().encode() + b"\n" for one in self._new)
            with storing(self._table):
                make_folder(self._table.parent)
            append_lines(self._table, lines)
            self._lines += len(self._new)
            self._new.clear()

    def finish(self) -> None:
        """Forget files that have gone, when there are many lines of them."""
        self.keep()
        if not self._is_whole or self._lines <= 2 * len(self._seen) + SPARE_LINES:
            return
        with new_file(self._table) as part, part.open("wb") as file:
            for one in self._seen.values():
                file.write(one.model_dump_json().encode() + b"\n")

    def _count(self) -> None:
        """Count the files by their names alone, so that what follows has an end in sight."""
        self._new_names, self._by_size, total = [], None, 0
        report("look through", 0, None, str(self.folder))
        for files in names(self.folder):
            total += len(files)
            if self._noted:
                self._new_names += [file for file in files if str(file) not in self._noted]
            report("look through", total, None, str(files[0].parent) if files else "")
        report("look through", total, total, "weights files")
        self._total = total

    def _has_moved(self, noted: Noted) -> bool:
        """Return whether the file that was noted lies under a name that nobody knew before."""
        if self._by_size is None:
            self._by_size = {}
            for file in self._new_names:
                with suppress(OSError):
                    self._by_size.setdefault(file.stat().st_size, []).append(file)
        size = noted.listing.file.size_bytes if noted.listing and noted.listing.file else 0
        return any(_is(file, noted.mark) for file in self._by_size.get(size, ()))

    def _links_to_nowhere(self) -> list[Path]:
        """Return the links through which files were seen that lead nowhere now."""
        gone = {Path(path).parent for path in self._noted if path not in self._seen}
        above = {
            folder
            for parent in gone
            for folder in (parent, *parent.parents)
            if folder.is_relative_to(self.folder)
        }
        return sorted(one for one in above if one.is_symlink() and not one.exists())

    def _holds_files_of(self, name: str) -> bool:
        """Return whether most of a folder's files are here, by some of them."""
        known = {
            expert.ref.rpartition("@")[2]
            for expert in self.library.experts()
            if expert.ref.startswith(f"{name}:") and expert.status != "retired"
        }
        if not known:
            return False
        here = (one for one in walk(self.folder, Counter()) if isinstance(one, FoundFile))
        same = 0
        for found in islice(here, MOST_COMPARED):
            with suppress(MissingInput):
                same += mark_of(found.file) in known
        return 2 * same >= min(len(known), MOST_COMPARED)

    def _at(
        self, found: FoundFile, marks: dict[str, Noted], models: dict[str, str]
    ) -> Iterator[Listing | BrokenPage]:
        path = str(found.file)
        shown = found.file.relative_to(self.folder).as_posix()
        noted = self._noted.get(path)
        if noted is None or noted.stamp != found.stamp:
            try:
                looked = self._look_at(found, shown, marks, models)
            except ExpertError as error:
                yield BrokenPage(where=printable(shown), reason=str(error))
                return
            except (MissingInput, OSError) as error:  # says nothing about whether it is there
                known = noted.listing if noted else None
                where = known.ref.model if known else printable(shown)
                yield BrokenPage(where=where, reason=str(error))
                return
            except ValueError:  # half a character in its name
                yield BrokenPage(where=printable(shown), reason="its name is not UTF-8")
                return
            if isinstance(looked, BrokenPage):
                yield looked
                return
            noted = looked
            self._note(noted)
        self._seen[path] = noted
        for name, why in noted.unread:
            yield BrokenPage(where=printable(Path(shown).with_name(name).as_posix()), reason=why)
        if noted.listing is not None:
            yield noted.listing

    def _look_at(
        self, found: FoundFile, shown: str, marks: dict[str, Noted], models: dict[str, str]
    ) -> "Noted | BrokenPage":
        shown.encode()
        mark = mark_of(found.file)
        same = marks.get(mark)
        if same is not None and same.path != str(found.file) and _is(Path(same.path), mark):
            other = same.listing.page_url if same.listing else ""
            return BrokenPage(
                where=printable(shown), reason=f"is the same file as {printable(other)}"
            )
        if same is not None and same.listing is not None:
            model = same.listing.ref.model  # it was renamed, or what lies beside it has changed
        else:
            model = model_of(shown)
            before = self._noted.get(str(found.file))
            is_next_version = (
                before is not None and before.listing is not None and not self._has_moved(before)
            )
            if models.get(model, mark) != mark and not is_next_version:
                model = f"{model}~{mark[:4]}"
            elif is_next_version and before is not None and before.listing is not None:
                model = before.listing.ref.model
        ref = ExpertRef(source=self.source, model=model, version=mark)
        page = page_of(found.file, shown, ref, self.family, found.present)
        noted = Noted(
            path=str(found.file),
            stamp=found.stamp,
            mark=mark,
            listing=page.listing,
            unread=page.unread,
            stated=page.stated,
            is_told=page.is_told,
        )
        marks[mark], models[model] = noted, mark
        return noted

    def _note(self, noted: Noted) -> None:
        self._noted[noted.path] = self._seen[noted.path] = noted
        self._new.append(noted)

    def _read(self) -> tuple[dict[str, Noted], int]:
        found: dict[str, Noted] = {}
        lines = 0
        try:
            with self._table.open("rb") as file:
                for line in file:
                    lines += 1
                    try:
                        noted = Noted.model_validate_json(line)
                    except ValidationError:
                        continue  # torn by a crash: that file is looked at again
                    found[noted.path] = noted
        except OSError:
            pass
        return found, lines


def _is(file: Path, mark: str) -> bool:
    """Return whether a file is there and has this mark."""
    try:
        return mark_of(file) == mark
    except MissingInput:
        return False
