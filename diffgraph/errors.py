"""Every error diffgraph raises on purpose.

* DiffgraphError
  * InputError           what the user gave cannot be used: a prompt, a file, a name
    - UnknownFamily        no such model family
    - EmptyPrompt          nothing to draw
    - UnknownWords         no word of the prompt is known to the family
    - MissingInput         a file or folder that is not there, or is not what it should be
  * ExpertError          one expert is unusable; the run goes on without it
    - UnknownFormat        no reader recognises the file
    - FamilyMismatch       the expert was made for another base model
    - UnsafeFile           the file could run code when opened
    - DamagedFile          truncated, inconsistent, or holding NaN or infinite numbers
      · WrongHash          its hash is not the one its page states
    - NotMergeableits page is kept, its weights are not merged
      · LicenceForbids       its page forbids derivatives, and a merge is one
    - UnusableListing      its hub page lacks what we need, or rules it out
  * PlanError            a merge plan that cannot be carried out
  * SnapshotError        a graph snapshot that cannot be used
    - DamagedSnapshot      it is not what was written: cut, changed, incomplete
  * DamagedTable         a table of ours is not what was written
  * StorageError         the home folder cannot be written: read-only, full
  * ServiceError         another machine failed us
    - ServiceUnavailable   worth another try: timeout, 429, 5xx
    - ServiceRefused       not worth another try: bad key, 404, policy
    - SpendingCapReached   asking on would cost more than was allowed
  * MissingPackage       a package that is needed is not installed

Their texts repeat what files, pages and servers say. An error masks the secrets in its own text and
makes it harmless to a terminal when it is made: it can be printed, logged and stored as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from diffgraph.printable import printable_briefly

OURS = ("diffgraph", "tasks", "flows")


class DiffgraphError(Exception):
    """The base of all: `except DiffgraphError` catches what is not a bug of ours."""

    def __init__(self, *parts: object) -> None:
        super().__init__(
            *(printable_briefly(part) if isinstance(part, str) else part for part in parts)
        )


class InputError(DiffgraphError):
    """What the user gave cannot be used."""


class UnknownFamily(InputError):
    """No model family has this name."""


class EmptyPrompt(InputError):
    """The prompt holds no words."""


class UnknownWords(InputError):
    """No word of the prompt is known to the family."""


class MissingInput(InputError):
    """A file or folder is not there, or is not what it should be."""


class ExpertError(DiffgraphError):
    """One expert is unusable; the run goes on without it."""


class UnknownFormat(ExpertError):
    """No reader recognises the file."""


class FamilyMismatch(ExpertError):
    """The expert was made for another base model."""


class UnsafeFile(ExpertError):
    """The file could run code when opened."""


class DamagedFile(ExpertError):
    """The file is truncated, inconsistent, or holds NaN or infinite numbers.

    Args:
        message: What is wrong.
        found: The SHA-256 of what came, in lower-case hex, if that is known.
    """

    def __init__(self, message: str, found: str = "") -> None:
        super().__init__(message)
        self.found = found


class WrongHash(DamagedFile):
    """The file's hash is not the one its page states."""

    @classmethod
    def of(cls, file: str, found: str, stated: str) -> "WrongHash":
        """Return the error of a file whose SHA-256 is not the one that its page states."""
        told = f"{file}: SHA-256 is {found[:12]}…, its page says {stated[:12]}…"
        return cls(f"{told}; fetched again when its page changes", found)


class NotMergeable(ExpertError):
    """The expert's page is kept; its weights are not merged."""


class LicenceForbids(NotMergeable):
    """The expert's page forbids derivatives, and a merge is one."""


class UnusableListing(ExpertError):
    """The expert's hub page lacks what we need, or rules the expert out."""


class PlanError(DiffgraphError):
    """A merge plan cannot be carried out."""


class SnapshotError(DiffgraphError):
    """A graph snapshot cannot be used: it is missing, damaged, or of another version."""


class DamagedSnapshot(SnapshotError):
    """A graph snapshot is not what was written: cut, changed or incomplete."""


class DamagedTable(DiffgraphError):
    """A table of ours is not what was written."""


class StorageError(DiffgraphError):
    """The home folder cannot be written."""


class ServiceError(DiffgraphError):
    """Another machine failed us."""


class ServiceUnavailable(ServiceError):
    """Worth another try: a timeout, 429 or 5xx."""


class ServiceRefused(ServiceError):
    """Not worth another try: a bad key, 404, or policy."""


class SpendingCapReached(ServiceError):
    """Asking on would cost more than was allowed; what was answered is kept."""


class MissingPackage(DiffgraphError):
    """A package that is needed is not installed."""


@contextmanager
def packages_demanded() -> Iterator[None]:
    """Raise `MissingPackage` where an import inside does not find another's package."""
    try:
        yield
    except ModuleNotFoundError as error:
        if not error.name or error.name.partition(".")[0] in OURS:
            raise  # a bug of ours
        raise MissingPackage(
            f"{error.name} is not installed: `python -m pip install diffgraph` installs all that "
            "it needs and that is missing"
        ) from error
