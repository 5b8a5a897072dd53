"""Which experts lie in a folder of weights files, as tools that draw keep them?

Any tree of safetensors. Files stay where they are and are referred to by path and content. They are
counted first; then pages are made of headers and sidecars, and, where it is wanted, of what a hub
says of a file by its hash. A file whose header tells the family is hashed at its first use, any
other one at once. What was noted of a file holds until it or what lies beside it changes. A file
that is renamed or moved below its folder stays the same expert, one that is replaced is its new
version, one that is gone is retired.
"""

import logging
import os
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from diffgraph.crawlers.civitai_client import HASHES_AT_ONCE
from diffgraph.crawlers.crawler import BrokenPage, Crawler
from diffgraph.crawlers.examining import CODE
from diffgraph.crawlers.file_page import model_of, page_of
from diffgraph.crawlers.hash_lookup import HashAnswer, HashAnswers, HashLookup
from diffgraph.crawlers.hub_names import name_for, note
from diffgraph.crawlers.noted_files import Noted, NotedFiles
from diffgraph.crawlers.weights_tree import OTHER_FORMATS, WEIGHTS, FoundFile, names, walk
from diffgraph.errors import ExpertError, MissingInput, ServiceError
from diffgraph.experts.expert import NOT_KNOWN, ExpertRef, Listing
from diffgraph.experts.hashing import HashedBytes, hash_files
from diffgraph.experts.library import Library
from diffgraph.experts.references import Reference, mark_of
from diffgraph.families import Family
from diffgraph.printable import printable
from diffgraph.progress import report

log = logging.getLogger(__name__)

NOT_READ = {"not read, could run code": CODE, "not read, of another format": OTHER_FORMATS}
MISSING_DISK = ": is a disk missing? nobody is retired"
MOST_COMPARED = 200  # files, of a folder that may be one that was moved


class FolderOfFiles(Crawler):
    """Reads a tree of weights files.

    Args:
        path: The folder.
        family: Whose experts are wanted.
        library: What is known so far.
        lookup: Whom to ask for files of which little is known; nobody by default.

    Raises:
        MissingInput: There is no such folder, its path is no text, or no weights file below it.
    """

    def __init__(
        self, path: Path, family: Family, library: Library, lookup: HashLookup | None = None
    ) -> None:
        self.folder = path.resolve()
        if not self.folder.is_dir():
            raise MissingInput(f"no folder of weights files at {path}")
        if not _is_text(self.folder):
            raise MissingInput(f"the path of {printable(str(path))} is not UTF-8: rename it")
        self.family, self.library = family, library
        self.source = name_for(self.folder, library, self._holds_files_of)
        self._lookup, self._answers = lookup, HashAnswers(library)
        self._noted = NotedFiles(library.folder / "folders" / f"{self.source}.{family.name}.jsonl")
        self._marks: dict[str, Noted] = {}
        self._models: dict[str, str] = {}
        self._seen: dict[str, Noted] = {}
        self._is_whole = True
        self._total: int | None = None
        self._new_names: list[Path] = []
        self._by_size: dict[int, list[Path]] | None = None
        self._bytes = HashedBytes()
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
        self._marks = {one.mark: one for one in self._noted.values() if one.listing}
        self._models = {
            one.listing.ref.model: one.mark for one in self._marks.values() if one.listing
        }
        for found in self._asked_for(walk(self.folder, self._others)):
            if isinstance(found, BrokenPage):
                self._is_whole = False
                yield found
                continue
            yield from self._at(found)
        for reason, kinds in NOT_READ.items():
            if counted := [
                f"{self._others[kind]} {kind}" for kind in sorted(self._others.keys() & kinds)
            ]:
                yield BrokenPage(where=self.source, reason=f"{reason}: {', '.join(counted)}")
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
        if noted is None or not noted.lies(found.sha256):
            return listing, found
        log.warning("%s: %s speaks of another file, by its hash; the expert is known without it",
                    path, printable(", ".join(name for name, _ in noted.stated)))  # fmt: skip
        present, answer = frozenset(os.listdir(path.parent)), self._answers.of(found.sha256)
        page = page_of(
            path, listing.page_url, listing.ref, self.family, present,
            found.sha256, answer.metadata if answer else None,
        )  # fmt: skip
        self._note(noted.with_page(page, answer))
        return page.listing, found

    def place_of(self, listing: Listing) -> Path | None:
        """Return where a file is whose header tells that it is the family's; None of others."""
        path = self.fetch(listing, self.folder)
        noted = self._seen.get(str(path))
        return path if noted is not None and noted.is_told else None

    def keep(self) -> None:
        """Write down what was found since the last time."""
        self._noted.keep()

    def finish(self) -> None:
        """Forget files that have gone, when there are many lines of them."""
        self.keep()
        if self._is_whole:
            self._noted.keep_only(self._seen.values())

    def _count(self) -> None:
        """Count the files by their names alone, so that what follows has an end in sight."""
        self._new_names, self._by_size, total = [], None, 0
        self._bytes = HashedBytes()
        report("look through", 0, None, str(self.folder))
        for files in names(self.folder):
            total += len(files)
            if self._lookup is not None:
                self._bytes.total += sum(map(_size, files))
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

    def _asked_for(
        self, entries: Iterator[FoundFile | BrokenPage]
    ) -> Iterator[FoundFile | BrokenPage]:
        """Yield these, once the hub was asked for those of which little is known."""
        while self._lookup is not None and (some := list(islice(entries, HASHES_AT_ONCE))):
            files = [one for one in some if isinstance(one, FoundFile)]
            for found in files:
                deque(self._at(found), maxlen=0)  # what is known without the hub
            try:
                self._ask(self._lookup, files)
            except ServiceError as error:
                self._lookup = None
                why = f"{error}; the other files are known without it"
                yield BrokenPage(where="--online", reason=why)
            yield from some
        yield from entries

    def _ask(self, lookup: HashLookup, files: list[FoundFile]) -> None:
        """Ask for files of the family of which no page is known, or no licence."""
        wanted = [found.file for found in files if self._is_little_known(str(found.file))]
        self._bytes.pass_by(found.size for found in files if found.file not in wanted)
        hashes = []
        for file, found in hash_files(wanted, self.library.references, self._bytes.told):
            if isinstance(found, Reference):
                hashes.append(found.sha256)
            else:
                log.warning("%s is not asked for: %s", printable(str(file)), found)
        unasked = [
            sha256
            for sha256 in dict.fromkeys(hashes)
            if (answer := self._answers.of(sha256)) is None or answer.is_old
        ]
        if unasked:
            self._answers.keep(lookup.ask(unasked))

    def _is_little_known(self, path: str) -> bool:
        noted = self._noted.get(path)
        listing = noted.listing if noted else None
        return (
            listing is not None
            and listing.base_model in self.family.hub_names
            and (listing.licence.name.startswith(NOT_KNOWN) or listing.is_thin)
        )

    def _at(self, found: FoundFile) -> Iterator[Listing | BrokenPage]:
        path = str(found.file)
        shown = found.file.relative_to(self.folder).as_posix()
        noted = self._noted.get(path)
        reference = self.library.references.known(found.file)
        sha256 = reference.sha256 if reference else ""
        answer = self._answers.of(sha256) if sha256 else None
        if noted is None or not noted.is_of(found.stamp, sha256, answer):
            try:
                looked = self._look_at(found, shown, sha256, answer)
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
        self,
        found: FoundFile,
        shown: str,
        sha256: str,
        answer: HashAnswer | None,
    ) -> "Noted | BrokenPage":
        shown.encode()
        mark = mark_of(found.file)
        same = self._marks.get(mark)
        if same is not None and same.path != str(found.file) and _is(Path(same.path), mark):
            other = same.listing.page_url if same.listing else ""
            beside = ", ".join(sorted(found.present))
            unread = f"; not read beside it: {printable(beside)}" if beside else ""
            reason = f"is the same file as {printable(other)}{unread}"
            return BrokenPage(where=printable(shown), reason=reason)
        if same is not None and same.listing is not None:
            model = same.listing.ref.model  # it was renamed, or what lies beside it has changed
        else:
            model = model_of(shown)
            before = self._noted.get(str(found.file))
            is_next_version = (
                before is not None and before.listing is not None and not self._has_moved(before)
            )
            if self._models.get(model, mark) != mark and not is_next_version:
                model = f"{model}~{mark[:4]}"
            elif is_next_version and before is not None and before.listing is not None:
                model = before.listing.ref.model
        ref = ExpertRef(source=self.source, model=model, version=mark)
        of_hub = answer.metadata if answer else None
        page = page_of(found.file, shown, ref, self.family, found.present, sha256, of_hub)
        noted = Noted(path=str(found.file), stamp=found.stamp, mark=mark, listing=page.listing)
        noted = noted.with_page(page, answer)
        self._marks[mark], self._models[model] = noted, mark
        return noted

    def _note(self, noted: Noted) -> None:
        self._noted.note(noted)
        self._seen[noted.path] = noted


def _is(file: Path, mark: str) -> bool:
    """Return whether a file is there and has this mark."""
    try:
        return mark_of(file) == mark
    except MissingInput:
        return False


def _is_text(path: Path) -> bool:
    try:
        return bool(str(path).encode())
    except UnicodeEncodeError:  # half a character
        return False


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
