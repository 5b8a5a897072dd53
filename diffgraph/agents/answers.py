"""Was this question answered before? Then it is not asked again.

One JSON file an answer, named by the question's content: what was asked about, the instructions'
version, and the model. A question whose answer could not be used is remembered with the reason, so
that a second run does not pay for it a second time; delete the file to have it asked again.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from diffgraph.artifacts import write_text

log = logging.getLogger(__name__)


class Answer(BaseModel, frozen=True):
    """What a language model said, or why that could not be used."""

    kind: str
    model: str
    version: str
    said: dict[str, Any] | None = None
    unusable: str = ""


def key_of(kind: str, version: str, model: str, content: str) -> str:
    """Return the name of a question: the SHA-256 of all that its answer depends on."""
    return hashlib.sha256(json.dumps([kind, version, model, content]).encode()).hexdigest()


class Answers:
    """The answers that are kept in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path_of(self, key: str) -> Path:
        """Return where an answer is kept; folders of some thousand files each stay quick."""
        return self.folder / key[:2] / f"{key}.json"

    def find(self, key: str) -> Answer | None:
        """Return a kept answer; None if there is none, or it cannot be read."""
        path = self.path_of(key)
        try:
            return Answer.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            log.warning("the answer %s is damaged and is asked for again: %s", path, error)
            return None

    def keep(self, key: str, answer: Answer) -> None:
        """Keep an answer.

        Raises:
            StorageError: it cannot be written.
        """
        write_text(self.path_of(key), answer.model_dump_json(indent=1) + "\n")
