"""Which experts do we know, and where are their pages and files?

Below `home/library`:

    experts.jsonl             one row an expert; a later row of the same reference replaces it
    listings.jsonl            hub pages by `page_hash`
    files/<sha256>.safetensors
    references.jsonl          files that stay in their owner's folders, by path and hash
    removed.json              who was taken out for good, and why

Rows are appended, so that adding thousands of experts costs what they weigh; the file is rewritten
when most of its rows are out of date. A row torn by a crash is dropped by the next writer; one that
is damaged is left out, told, and set aside in `experts.jsonl.damaged` by the next writer. Weights
that ship with a family are referred to where they are, never copied.
"""

import hashlib
import logging
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from diffgraph.artifacts import (
    append_lines,
    holding,
    lock_at,
    new_file,
    scratch_folder,
    set_aside,
    sha256_of,
    storing,
    sweep,
    write_text,
)
from diffgraph.errors import MissingInput
from diffgraph.experts.bundled_files import BundledFiles
from diffgraph.experts.expert import Expert, ExpertRef, Listing, Status
from diffgraph.experts.hashing import hash_discovered
from diffgraph.experts.line_store import LineStore
from diffgraph.experts.references import SEALED, References
from diffgraph.experts.removals import Removals
from diffgraph.homes import demand_readable
from diffgraph.permissions import make_folder

log = logging.getLogger(__name__)

SPARE_ROWS = 1000  # out-of-date rows that are never worth rewriting the file for
LOCK_SECONDS = 60.0

COUNTED = {"downloads", "rating"}  # what people did with an expert is no news about it
LATER_FIELDS = {
    "real_person",
    "minor",
    "withdrawn",
    "gated",
}  # left out where they say nothing: old hashes stay


def page_hash(listing: Listing) -> str:
    """Return the SHA-256 of what a page says; counts of its users are no news and left out."""
    unsaid = {field for field in LATER_FIELDS if not getattr(listing, field)}
    return hashlib.sha256(listing.model_dump_json(exclude=COUNTED | unsaid).encode()).hexdigest()


class Library:
    """The experts below a home folder: any number of readers, one writer at a time.

    Nothing is written, the folder included, before the first expert is added.

    Args:
        home: The home folder.
        bundled: Hub folders whose files are used in place; by default those that ship with the
            families.

    Raises:
        MissingInput: The home is one of the first version.
    """

    def __init__(self, home: Path, bundled: Iterable[Path] | None = None) -> None:
        demand_readable(home)
        self.folder = home / "library"
        self._bundled = BundledFiles(bundled)
        self._lock = lock_at(self.folder / ".lock", timeout=LOCK_SECONDS)
        self.removals = Removals(self.folder / "removed.json")
        self.references = References(self.folder / "references.jsonl")
        self._pages = LineStore(self.folder / "listings.jsonl")
        self._rows: dict[str, Expert] = {}
        self._read_state: tuple[int, int, int] | None = None  # inode, bytes and time at last read
        self._out_of_date = 0
        self._damaged: list[bytes] = []
        self._leaving: list[Expert] = []  # removed, but for a run that was killed

    @property
    def _table(self) -> Path:
        return self.folder / "experts.jsonl"

    def experts(self, status: Status | Collection[Status] | None = None) -> tuple[Expert, ...]:
        """Return the experts of one or several statuses, or all, ordered by reference."""
        wanted = {status} if isinstance(status, str) else status
        rows = self._current()
        return tuple(rows[ref] for ref in sorted(rows) if not wanted or rows[ref].status in wanted)

    def find(self, ref: str | ExpertRef) -> Expert | None:
        """Return the expert of this reference, or None if it is not known."""
        return self._current().get(str(ref))

    def get(self, ref: str | ExpertRef) -> Expert:
        """Return the expert of this reference; raises `MissingInput` if it is not known."""
        expert = self.find(ref)
        if expert is None:
            raise MissingInput(f"no expert {ref} in {self.folder}: discover it first")
        return expert

    def get_hashed(self, ref: str | ExpertRef) -> Expert:
        """Return the expert of this reference, its file hashed now if this is its first use.

        Raises:
            MissingInput, DamagedFile, StorageError: It is not known; or as `hash_discovered` says.
        """
        expert = self.get(ref)
        is_known = bool(expert.sha256) and self.holds(expert.sha256)
        if is_known or not expert.place or expert.status in {"rejected", "registered_only"}:
            return expert
        found = hash_discovered(expert, self.references)
        if not expert.sha256:
            expert = expert.model_copy(update=found.model_dump(include={"sha256", "size_bytes"}))
            self.update([expert])
        return expert

    def listing(self, ref: str | ExpertRef) -> Listing:
        """Return the page an expert was last found on; raises `MissingInput`."""
        sha256 = self.get(ref).page_sha256
        text = self._pages.get(sha256)
        try:
            if text is None:
                raise MissingInput(f"no page of {ref} is in {self._pages.path}: discover it again")
            return Listing.model_validate_json(text)
        except ValidationError as error:
            raise MissingInput(
                f"the page of {ref} cannot be read from {self._pages.path}: {error}"
            ) from error

    def holds_page(self, page_sha256: str) -> bool:
        """Return whether a page is kept and whole."""
        return self._pages.is_whole(page_sha256)

    def path_of(self, sha256: str) -> Path:
        """Return the weights file with this content; raises `MissingInput`."""
        kept = self._file_path(sha256)
        if kept.is_file():
            return kept
        if (referred := self.references.path_of(sha256)) is not None:
            return referred
        if (shipped := self._bundled.path_of(sha256)) is not None:
            return shipped
        where = self.references.last_place(sha256) or f"in {self.folder}"
        raise MissingInput(f"no weights file {sha256[:12]}… {where}: discover it again")

    def holds(self, sha256: str) -> bool:
        """Return whether the weights with this content are here."""
        try:
            return self.path_of(sha256).is_file()
        except MissingInput:
            return False

    def set_damaged_weights_aside(self, is_thorough: bool = False) -> tuple[str, ...]:
        """Set weights aside that are not what was kept, tell it, and return whose they are.

        The next discover brings them again. By their sizes, or by every byte: minutes a terabyte.
        """
        found = []
        for expert in self.experts():
            file = self._file_path(expert.sha256)
            if not expert.sha256 or not file.is_file():
                continue
            is_whole = expert.size_bytes in (0, file.stat().st_size)
            if is_whole and is_thorough:
                is_whole = sha256_of(file) == expert.sha256
            if not is_whole:
                found.append(expert.ref)
                log.warning("%s of %s is damaged; it is set aside as %s, and discover brings it "
                            "again", file, expert.ref, set_aside(file).name)  # fmt: skip
        return tuple(found)

    def add(self, expert: Expert, listing: Listing, file: Path | None = None) -> Expert:
        """Add or replace an expert, with its page and its file, and return its row.

        The row is written last: an expert that is known has its page and its file. `file`, whose
        content has the hash `expert.sha256`, is moved in unless that content is already here. What
        its page says of where it comes from, its scans and its hash goes into the row.

        Raises:
            StorageError: The home folder cannot be written; the library is as it was.
        """
        row = expert.as_listed(listing, page_hash(listing))
        with self.writing():
            self._pages.add([(row.page_sha256, listing.model_dump_json())])
            if file is not None and not self.holds(row.sha256):
                self._take(file, self._file_path(row.sha256))
            if self.find(row.ref) != row:
                self._append([row])
        return row

    def add_pages(self, found: Iterable[tuple[Expert, Listing]]) -> None:
        """Add or replace experts of which only the pages are kept: all in two writes.

        Raises:
            StorageError: The home folder cannot be written; no row was added.
        """
        listed = [(one.as_listed(page, page_hash(page)), page) for one, page in found]
        with self.writing():
            self._pages.add((row.page_sha256, page.model_dump_json()) for row, page in listed)
            rows = [row for row, _ in listed if self.find(row.ref) != row]
            if rows:
                self._append(rows)

    def update(self, experts: Iterable[Expert]) -> None:
        """Replace rows of experts that are already here, in one write."""
        rows = [self._current_or_new(expert) for expert in experts]
        if rows:
            with self.writing():
                self._append(rows)

    def retire(self, refs: Iterable[str | ExpertRef], reason: str = "gone from its hub") -> None:
        """Mark experts as gone from their hub; what was merged from them stays reproducible."""
        self.update(
            self.get(ref).model_copy(update={"status": "retired", "reason": reason}) for ref in refs
        )

    def why_removed(self, ref: str | ExpertRef) -> str | None:
        """Return why this expert was taken out for good; None if it was not."""
        return self.removals.among([str(ref)]).get(str(ref))

    def remove(self, ref: str, reason: str) -> tuple[Expert, ...]:
        """Take an expert, or all versions of `source:model`, out for good; return what is left.

        From now on nobody finds it and no discover takes it in. Its rows, pages and files go with
        `purge`, once whatever else is known of it has gone.
        """
        with self.writing():
            self.removals.add(ref, reason)
        self._read_state = None
        self._current()
        return tuple(self._leaving)

    def allow(self, ref: str) -> bool:
        """Let what was taken out come back with the next discover; return whether it was."""
        with self.writing():
            self._read_state = None
            return self.removals.discard(ref)

    def purge(self) -> None:
        """Remove rows, pages and files of experts that were taken out: the rows last."""
        with self.writing():
            rows = self._current()
            if not self._leaving:
                return
            needed = {expert.sha256 for expert in rows.values()}
            for expert in self._leaving:
                if expert.sha256 and expert.sha256 not in needed:
                    file = self._file_path(expert.sha256)
                    with storing(file):
                        file.unlink(missing_ok=True)
            self._pages.keep_only({expert.page_sha256 for expert in rows.values()})
            write_text(self._table, "".join(map(_line, rows.values())))
            self._read_state = None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the library's lock; use it round many `add` calls to take the lock once."""
        with holding(self._lock):
            yield

    def sweep(self) -> None:
        """Clear away what killed runs have left, pages of nobody, and weights of a wrong size."""
        if len(self._pages) > SPARE_ROWS:
            wanted = {expert.page_sha256 for expert in self._current().values()}
            if len(self._pages) > 2 * len(wanted) + SPARE_ROWS:
                with self.writing():
                    self._pages.keep_only(wanted)
        self.set_damaged_weights_aside()
        for folder in (self.folder, *self.folder.glob("[!.]*/")):
            if folder.is_dir():
                sweep(folder)

    @contextmanager
    def workbench(self) -> Iterator[Path]:
        """Yield an empty folder for a file that is to be judged, on the disk of the library."""
        with scratch_folder(self.folder / "judging") as folder:
            yield folder

    def _current_or_new(self, expert: Expert) -> Expert:
        self.get(expert.ref)
        return expert

    def _file_path(self, sha256: str) -> Path:
        return self.folder / "files" / f"{sha256}.safetensors"

    def _current(self) -> dict[str, Expert]:
        """Return the rows, read again if another process has written since."""
        try:
            about = self._table.stat()
        except OSError:
            self._rows, self._read_state, self._out_of_date = {}, None, 0
            return self._rows
        state = (about.st_ino, about.st_size, about.st_mtime_ns)
        if state != self._read_state:
            self._rows, self._out_of_date = self._read(), 0
            self._read_state = state
        return self._rows

    def _read(self) -> dict[str, Expert]:
        rows: dict[str, Expert] = {}
        lines = self._table.read_bytes().split(b"\n")
        lines.pop()  # after the last newline: nothing, or a row that a crash has torn
        self._damaged = []
        for line in lines:
            try:
                expert = Expert.model_validate_json(line)
            except ValidationError:
                self._damaged.append(line)
            else:
                rows[expert.ref] = expert
        if self._damaged:
            log.warning(
                "%s: %d rows are no experts and are left out; discover finds them again",
                self._table,
                len(self._damaged),
            )
        self._out_of_date = len(lines) - len(rows)
        self._leaving = [rows.pop(ref) for ref in self.removals.among(list(rows))]
        return rows

    def _append(self, experts: Collection[Expert]) -> None:
        """Write rows at the end of the table, all or none; the lock is held."""
        rows = self._current()
        new = {expert.ref: expert for expert in experts}
        stale = self._out_of_date + sum(ref in rows for ref in new)
        if self._damaged or stale > len(rows) + len(new) + SPARE_ROWS:
            self._set_damaged_aside()
            kept = [*{**rows, **new}.values(), *self._leaving]
            write_text(self._table, "".join(map(_line, kept)))
            stale = 0
        else:
            append_lines(self._table, "".join(map(_line, experts)).encode())
        about = self._table.stat()
        rows.update(new)  # not a copy: adding ten thousand one by one would take their square
        self._rows, self._out_of_date = rows, stale
        self._read_state = (about.st_ino, about.st_size, about.st_mtime_ns)

    def _set_damaged_aside(self) -> None:
        """Keep damaged rows beside the table, which is about to be written without them."""
        if self._damaged:
            aside = self._table.with_name(f"{self._table.name}.damaged")
            append_lines(aside, b"".join(line + b"\n" for line in self._damaged))
            self._damaged = []

    def _take(self, file: Path, target: Path) -> None:
        with storing(target):
            make_folder(target.parent)
            if os.stat(file).st_dev == os.stat(target.parent).st_dev:
                file.chmod(SEALED)
                file.replace(target)
                return
        with new_file(target) as part, file.open("rb") as source, part.open("wb") as copy:
            while data := source.read(1 << 20):
                copy.write(data)
        with storing(target):
            target.chmod(SEALED)
            file.unlink(missing_ok=True)


def _line(expert: Expert) -> str:
    return expert.model_dump_json() + "\n"
