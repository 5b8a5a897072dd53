"""How are thousands of pages asked about at half the price? In Message Batches.

A batch is handed in, worked off within a day, mostly within an hour, and read in one go. Which
batches are under way is written down before anything else, so that a run that was killed reads
them instead of paying again.

https://docs.claude.com/en/docs/build-with-claude/batch-processing
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, ValidationError

from diffgraph.agents.messages import Messages, check_form, translated
from diffgraph.agents.questions import Question
from diffgraph.artifacts import lock_at, write_text

if TYPE_CHECKING:
    from anthropic.types import Message

log = logging.getLogger(__name__)

MOST_REQUESTS = 10_000  # of one batch; the API's own limit is ten times that

Take = Callable[[str, "Message"], None]
"""Called with the key of a question and the message that answers it."""


class OpenBatch(BaseModel, frozen=True):
    """A batch that was handed in and not read yet."""

    id: str = Field(pattern=r"^[\w-]{1,100}$")  # it becomes a file's name
    model: str
    questions: int
    dollars: float = 0.0


class MessageBatches:
    """Hands in and reads batches; the open ones are kept in a folder.

    Args:
        messages: the API client.
        folder: where open batches are written down.
        kind: what the questions are of: all of one kind.
    """

    def __init__(self, messages: Messages, folder: Path, kind: str) -> None:
        self._messages = messages
        self._folder = folder
        self._kind = kind

    def open_batches(self) -> list[OpenBatch]:
        """Return the batches of this model that were handed in and not read."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                batch = OpenBatch.model_validate_json(path.read_bytes())
            except FileNotFoundError:
                continue  # another process has just read it
            except (OSError, ValidationError) as error:
                log.warning("the batch %s is forgotten: %s", path, error)
                continue
            if batch.model == self._messages.model:
                found.append(batch)
        return found

    def hand_in(self, questions: Iterable[tuple[str, Question]]) -> list[OpenBatch]:
        """Hand in questions, each under its key, as far as the spending cap allows."""
        handed_in: list[OpenBatch] = []
        room = self._messages.ledger.room() - sum(batch.dollars for batch in self.open_batches())
        for requests, dollars in self._parts(questions, room):
            with translated("handing in a batch"):
                made = self._messages.client.messages.batches.create(requests=requests)
            batch = OpenBatch(
                id=made.id, model=self._messages.model, questions=len(requests), dollars=dollars
            )
            write_text(self._path(batch), batch.model_dump_json(indent=1) + "\n")
            log.info("handed in %s with %d questions", made.id, len(requests))
            handed_in.append(batch)
        return handed_in

    def _parts(
        self, questions: Iterable[tuple[str, Question]], room: float
    ) -> Iterator[tuple[list[Any], float]]:
        """Yield requests and what they cost at most, in parts that a batch can hold."""
        config = self._messages.config
        part: list[Any] = []
        size, dollars = 0, 0.0
        for key, question in questions:
            body = question.parameters(self._messages.model, config.most_tokens)
            highest_cost = self._messages.highest_cost(body, is_batched=True)
            if highest_cost > room:
                log.warning("the spending cap leaves no room for more questions in batches")
                break
            length = len(json.dumps(body))
            if part and (size + length > config.batch_bytes or len(part) == MOST_REQUESTS):
                yield part, dollars
                part, size, dollars = [], 0, 0.0
            part.append({"custom_id": key, "params": body})
            room, size, dollars = room - highest_cost, size + length, dollars + highest_cost
        if part:
            yield part, dollars

    def read(self, batch: OpenBatch, take: Take) -> int:
        """Wait until a batch is done and give each message to `take`; return how many came.

        Of several processes that wait for it, one reads it.
        """
        with ExitStack() as stack:
            stack.enter_context(lock_at(self._path(batch).with_suffix(".lock")))
            if not self._path(batch).is_file():
                return 0
            stack.enter_context(self._messages.ledger.held(batch.dollars))
            if not self._is_done(batch):
                log.warning("the API does not know %s any more; its questions are open", batch.id)
                self._path(batch).unlink()
                return 0
            came = 0
            with translated("reading a batch"):
                results = self._messages.client.messages.batches.results(batch.id)
                for result in results:
                    if result.result.type == "succeeded":
                        check_form(result.result.message)
                        self._messages.book(self._kind, result.result.message, is_batched=True)
                        take(result.custom_id, result.result.message)
                        came += 1
            self._path(batch).unlink()
        log.info("read %s: %d of %d answered", batch.id, came, batch.questions)
        return came

    def _is_done(self, batch: OpenBatch) -> bool:
        """Wait until a batch has ended; return False if there is no such batch."""
        from anthropic import NotFoundError

        while True:
            with translated("waiting for a batch"):
                try:
                    state = self._messages.client.messages.batches.retrieve(batch.id)
                except NotFoundError:
                    return False
            if state.processing_status == "ended":
                return True
            time.sleep(self._messages.config.batch_poll)

    def _path(self, batch: OpenBatch) -> Path:
        return self._folder / f"{batch.id}.json"
