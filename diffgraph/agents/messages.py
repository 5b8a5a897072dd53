"""How is a language model asked? Through Anthropic's Messages API, carefully.

A limited number of questions at a time, each held against the spending cap first, each answer
written to the ledger. The SDK tries again on 429, 5xx and 529 and waits as long as `Retry-After`
says. An answer has to fit the tool's schema; one that does not is sent back once, with what is
wrong. Neither the key nor a page ever stands in an error.

https://docs.claude.com/en/api/messages
"""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, SecretStr, ValidationError

from diffgraph.agents.questions import Question, ToolInput
from diffgraph.agents.spending import BATCH_SHARE, Ledger, Spending, highest_cost
from diffgraph.agents.words import plain
from diffgraph.errors import DiffgraphError, InputError, ServiceRefused, ServiceUnavailable
from diffgraph.secrets import keep_secret

if TYPE_CHECKING:
    from anthropic import Anthropic
    from anthropic.types import Message

log = logging.getLogger(__name__)

BYTES_A_TOKEN = 2.0  # fewer than there are: what a question costs at most is estimated with it
TOKENS_A_PICTURE = 700
PASSING = {408, 409, 425, 429}  # and all from 500 on
OUR_FAULT = {401, 402, 403, 404}
NO_MONEY = ("credit balance", "spend limit", "billing")


class ClaudeConfig(BaseModel, frozen=True):
    """How patiently, how fast and how cheaply Claude is asked."""

    at_once: int = Field(default=8, ge=1, description="questions that are open at the same time")
    tries: int = Field(default=6, ge=1, description="of one question, on 429, 5xx and 529")
    timeout: float = Field(default=120.0, gt=0, description="seconds for one answer")
    most_tokens: int = Field(
        default=4096, ge=256, description="of an answer, what the model thinks included"
    )
    batch_from: int = Field(
        default=100, ge=0, description="pages from which Message Batches are used; 0: never"
    )
    batch_bytes: int = Field(default=64 << 20, ge=1 << 10, description="of one batch's requests")
    batch_poll: float = Field(default=30.0, gt=0, description="seconds between two looks at it")
    pictures: bool = Field(default=True, description="whether example images are shown")
    image_hosts: tuple[str, ...] = Field(
        default=("image.civitai.com", "imagecache.civitai.com", "huggingface.co"),
        description="the only hosts example images are fetched from",
    )


class UnusableAnswer(DiffgraphError):
    """What was asked was answered, but the answer cannot be used; asking again would not help."""


class Messages:
    """Asks one model; threads may share it.

    Args:
        key: the API key.
        model: which model.
        ledger: what was spent and may be.
        config: how patiently, how fast.
        base_url: where the API is; unset: Anthropic's own.
    """

    def __init__(
        self,
        key: SecretStr,
        model: str,
        ledger: Ledger,
        config: ClaudeConfig,
        base_url: str | None = None,
    ) -> None:
        self.model = model
        self.config = config
        self.ledger = ledger
        keep_secret(key)
        self._key = key
        self._base_url = base_url
        self._turn = threading.BoundedSemaphore(config.at_once)
        self._making = threading.Lock()
        self._made: Anthropic | None = None

    @property
    def client(self) -> "Anthropic":
        """The SDK's client; importing it takes a second, so it is made when first needed."""
        with self._making:
            if self._made is None:
                from anthropic import Anthropic

                if self._base_url and not self._base_url.startswith(("https://", "http://")):
                    raise InputError("DIFFGRAPH_ANTHROPIC_BASE_URL is no http(s) address")
                self._made = Anthropic(
                    api_key=self._key.get_secret_value(),
                    base_url=self._base_url,
                    max_retries=self.config.tries - 1,
                    timeout=self.config.timeout,
                )
            return self._made

    def ask(self, question: Question) -> ToolInput:
        """Return the answer to a question, after one repair if it has to be.

        Raises:
            UnusableAnswer: the answer does not fit, twice; or this very question is not accepted.
            SpendingCapReached: it might cost too much.
            ServiceUnavailable: no answer came, however patiently we waited.
            ServiceRefused: the key, the model or the account is not accepted.
        """
        body = question.parameters(self.model, self.config.most_tokens)
        message = self._sent(question, body)
        try:
            return read_answer(question, message)
        except UnusableAnswer as error:
            if message.stop_reason == "refusal":
                raise
            wrong = str(error)
        log.info("an answer to %s is sent back: %s", question.kind.name, wrong)
        body["messages"] = _sent_back(body["messages"], message, wrong, question.kind.tool)
        return read_answer(question, self._sent(question, body))

    def _sent(self, question: Question, body: Mapping[str, Any]) -> "Message":
        with (
            self._turn,
            self.ledger.reserved(self.highest_cost(body)),
            translated(question.kind.name),
        ):
            message: Message = self.client.messages.create(**body)
            check_form(message)
        self.book(question.kind.name, message)
        return message

    def book(self, kind: str, message: "Message", is_batched: bool = False) -> None:
        """Write down what an answer took."""
        share = BATCH_SHARE if is_batched else 1.0
        self.ledger.record(kind, self.model, Spending.of(message.usage, self.model, share))

    def highest_cost(self, body: Mapping[str, Any], is_batched: bool = False) -> float:
        """Return the dollars that a request costs at most."""
        pictures, length = _size(body)
        read = length / BYTES_A_TOKEN + TOKENS_A_PICTURE * pictures
        share = BATCH_SHARE if is_batched else 1.0
        return highest_cost(self.model, read, float(body["max_tokens"]), share)


def check_form(message: Any) -> None:
    """Raise ValueError for what is no message: the SDK takes anything that calls itself one."""
    usage, content = getattr(message, "usage", None), getattr(message, "content", None)
    if not isinstance(content, list) or not all(hasattr(block, "type") for block in content):
        raise ValueError("no content")
    if not isinstance(getattr(usage, "output_tokens", None), int):
        raise ValueError("no usage")


def read_answer(question: Question, message: "Message") -> ToolInput:
    """Return what a message says by calling the question's tool.

    Raises:
        UnusableAnswer: it calls none or another, or says what the schema or the question rules out.
    """
    if message.stop_reason == "refusal":
        raise UnusableAnswer("the model declined to answer")
    calls = [block for block in message.content if block.type == "tool_use"]
    called = [block for block in calls if block.name == question.kind.tool]
    if not called:
        names = ", ".join(sorted({plain(block.name, 40) for block in calls})) or "no tool"
        cut = " before the answer was cut off" if message.stop_reason == "max_tokens" else ""
        raise UnusableAnswer(f"the model called {names} instead of {question.kind.tool}{cut}")
    try:
        said = question.kind.answer.model_validate(getattr(called[0], "input", None))
    except ValidationError as error:
        raise UnusableAnswer(_told(error)) from error
    wrong = question.check(said)
    if wrong:
        raise UnusableAnswer(wrong)
    return said


def _told(error: ValidationError) -> str:
    """Return what does not fit, without the words of the answer."""
    lines = [f"{'.'.join(map(str, e['loc'])) or 'input'}: {e['msg']}" for e in error.errors()[:5]]
    return plain("; ".join(lines), 400)


def _sent_back(
    messages: list[dict[str, Any]], message: "Message", wrong: str, tool: str
) -> list[dict[str, Any]]:
    """Return the conversation with a model's answer and what is wrong with it."""
    said = [
        block.model_dump(mode="json", exclude_none=True, warnings=False)
        for block in message.content
    ]
    advice = f"This cannot be used: {wrong}. Call the tool `{tool}` once more, corrected."
    if not said:  # nothing came: a turn of the model must not be empty
        (asked,) = messages
        text = {"type": "text", "text": f"Your last answer was empty: {wrong}. Be brief."}
        return [{"role": "user", "content": [*asked["content"], text]}]
    results: list[dict[str, Any]] = [
        {"type": "tool_result", "tool_use_id": block.id, "is_error": True, "content": advice}
        for block in message.content
        if block.type == "tool_use"
    ]
    answer = results or [{"type": "text", "text": advice}]
    turns = [{"role": "assistant", "content": said}, {"role": "user", "content": answer}]
    return [*messages, *turns]


def _size(value: Any) -> tuple[int, int]:
    """Return how many pictures a request holds, and how many bytes of anything else."""
    if isinstance(value, str):
        return 0, len(value.encode(errors="replace"))
    if isinstance(value, Mapping):
        if value.get("type") == "image":
            return 1, 0
        value = value.values()
    elif not isinstance(value, list | tuple):
        return 0, 8
    sizes = [_size(part) for part in value]
    return sum(pictures for pictures, _ in sizes), sum(length for _, length in sizes)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn the SDK's errors into ours, without a key and without text of a page."""
    from anthropic import AnthropicError, APIConnectionError, APIStatusError

    try:
        yield
    except APIStatusError as error:
        raise _of_status(error.status_code, _said_by(error), doing) from None
    except APIConnectionError as error:  # a timeout too
        raise ServiceUnavailable(
            f"Claude could not be reached ({doing}): {type(error).__name__}"
        ) from None
    except (AnthropicError, ValueError) as error:  # an answer that is no JSON, or another's
        raise ServiceUnavailable(
            f"Claude's answer could not be read ({doing}): {type(error).__name__}"
        ) from None


def _said_by(error: Any) -> str:
    """Return the API's own message; it never repeats a key."""
    body = error.body if isinstance(error.body, Mapping) else {}
    inner = body.get("error")
    told = inner.get("message") if isinstance(inner, Mapping) else ""
    return plain(str(told or ""), 200)


def _of_status(status: int, told: str, doing: str) -> DiffgraphError:
    said = f"{status}{f': {told}' if told else ''}"
    if status in OUR_FAULT or any(words in told.lower() for words in NO_MONEY):
        hint = {401: "; check ANTHROPIC_API_KEY", 404: "; check DIFFGRAPH_CLAUDE_MODEL"}
        return ServiceRefused(f"Claude refuses to answer ({said}){hint.get(status, '')}")
    if status in PASSING or status >= 500:
        return ServiceUnavailable(f"Claude is not available ({doing}, {said}); try again later")
    return UnusableAnswer(f"Claude does not accept the question ({said})")
