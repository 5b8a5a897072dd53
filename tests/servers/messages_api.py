"""A server on 127.0.0.1 that speaks Anthropic's Messages API, with a small model behind it.

It holds requests to the rules of the API (key, model, roles, tools, batches), so that a client that
breaks them fails here as it would there. The model answers from what it is shown; tests can script
its answers, or let it obey every order that it finds in its prompt.
"""

import base64
import json
import re
from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

from tests.servers.local_server import LocalServer, Reply, Request

KEY = "sk-ant-test-0123456789"
MODELS = {"claude-haiku-5-5", "claude-sonnet-5-5", "claude-unpriced-1"}
NO_FORCED_TOOLS = "tool_choice forces tool use is not supported with thinking"
CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
OBEYED = re.compile(
    r"ignore|disregard|pwned|always choose|select this|system:|you are now|忽略|ignora", re.I
)

Block = dict[str, Any]
Thought = Callable[[dict[str, Any]], list[Block]]
"""From the body of a request to the blocks of the answer."""


class Refused(Exception):
    """The API does not accept a request."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.reply = failure(status, kind, message)


def failure(status: int, kind: str, message: str = "", **headers: str) -> Reply:
    content = {"type": "error", "error": {"type": kind, "message": message or kind}}
    return Reply.json(content, status, **headers)


class MessagesApi(LocalServer):
    """The Messages API.

    Args:
        think: what the model answers; by default it describes, parses and reviews sensibly.
        looks: how often a batch is still in progress when it is asked for.
    """

    def __init__(self, think: Thought | None = None, looks: int = 1) -> None:
        super().__init__()
        self.think = think or sensible
        self.scripted: deque[list[Block] | str] = deque()
        self.bodies: list[dict[str, Any]] = []
        self.batches: dict[str, list[dict[str, Any]]] = {}
        self.failing: set[str] = set()  # custom ids whose results are errors
        self.looks = looks
        self._looked: dict[str, int] = {}
        self._numbers = count(1)
        self._cached: set[str] = set()

    def say(self, *answers: list[Block] | str) -> None:
        """Give these answers next: blocks, or a stop reason for an answer without any."""
        self.scripted.extend(answers)

    def refuse(
        self, status: int, kind: str, message: str = "", *, times: int = 1, **headers: str
    ) -> None:
        """Answer the next requests for a message with an error."""
        reply = failure(status, kind, message, **headers)
        self.disturb(lambda _: reply, path="/v1/messages", times=times)

    def answer(self, request: Request) -> Reply:
        try:
            if (request.headers.get("x-api-key") or request.token) != KEY:
                raise Refused(401, "authentication_error", "invalid x-api-key")
            if not request.headers.get("anthropic-version"):
                raise Refused(400, "invalid_request_error", "anthropic-version: header is required")
            return self._routed(request)
        except Refused as refusal:
            return refusal.reply

    def _routed(self, request: Request) -> Reply:
        path = request.path.rstrip("/")
        if path == "/v1/messages":
            return Reply.json(self._message(json.loads(request.body)))
        if path == "/v1/messages/batches":
            return self._handed_in(json.loads(request.body))
        match = re.fullmatch(r"/v1/messages/batches/(\w+)(/results)?", path)
        if match and match[1] in self.batches:
            return self._results(match[1]) if match[2] else Reply.json(self._state(match[1]))
        raise Refused(404, "not_found_error", f"no such thing: {path}")

    def _message(self, body: dict[str, Any]) -> dict[str, Any]:
        check(body)
        self.bodies.append(body)
        scripted = self.scripted.popleft() if self.scripted else self.think(body)
        blocks = [] if isinstance(scripted, str) else scripted
        called = any(block["type"] == "tool_use" for block in blocks)
        reason = scripted if isinstance(scripted, str) else "tool_use" if called else "end_turn"
        system = json.dumps([body["tools"], body["system"]])
        prefix = len(system) // 4
        read = len(json.dumps(body["messages"])) // 4
        is_known = system in self._cached
        self._cached.add(system)
        return {
            "id": f"msg_{next(self._numbers):06}",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": blocks,
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": {
                "input_tokens": read,
                "output_tokens": len(json.dumps(blocks)) // 4,
                "cache_creation_input_tokens": 0 if is_known else prefix,
                "cache_read_input_tokens": prefix if is_known else 0,
            },
        }

    def _handed_in(self, body: dict[str, Any]) -> Reply:
        requests = body.get("requests") or []
        ids = [request["custom_id"] for request in requests]
        if not ids or len(set(ids)) < len(ids) or not all(map(CUSTOM_ID.fullmatch, ids)):
            raise Refused(400, "invalid_request_error", "requests: custom_id is not usable")
        name = f"msgbatch_{next(self._numbers):06}"
        self.batches[name] = requests
        return Reply.json(self._state(name))

    def _state(self, name: str) -> dict[str, Any]:
        looked = self._looked[name] = self._looked.get(name, -1) + 1
        ended = looked > self.looks
        total = len(self.batches[name])
        return {
            "id": name,
            "type": "message_batch",
            "processing_status": "ended" if ended else "in_progress",
            "request_counts": {
                "processing": 0 if ended else total,
                "succeeded": total if ended else 0,
                "errored": 0,
                "canceled": 0,
                "expired": 0,
            },
            "created_at": "2026-10-24T00:00:00Z",
            "expires_at": "2026-10-25T00:00:00Z",
            "ended_at": "2026-10-24T00:30:00Z" if ended else None,
            "archived_at": None,
            "cancel_initiated_at": None,
            "results_url": f"{self.url}/v1/messages/batches/{name}/results" if ended else None,
        }

    def _results(self, name: str) -> Reply:
        lines = []
        for request in reversed(self.batches[name]):  # in any order
            try:
                if request["custom_id"] in self.failing:
                    raise Refused(500, "api_error", "internal")
                result: dict[str, Any] = {
                    "type": "succeeded",
                    "message": self._message(request["params"]),
                }
            except Refused as refusal:
                result = {"type": "errored", "error": json.loads(refusal.reply.body)}
            lines.append(json.dumps({"custom_id": request["custom_id"], "result": result}))
        body = "".join(f"{line}\n" for line in lines).encode()
        return Reply(200, body, {"Content-Type": "application/binary"})


def check(body: dict[str, Any]) -> None:
    """Raise `Refused` for what the API does not accept."""

    def need(condition: object, message: str) -> None:
        if not condition:
            raise Refused(400, "invalid_request_error", message)

    unknown = set(body) - {
        "model", "max_tokens", "system", "tools", "tool_choice", "messages", "stream",
    }  # fmt: skip
    need(not unknown, f"{sorted(unknown)}: Extra inputs are not permitted")
    if body.get("model") not in MODELS:
        raise Refused(404, "not_found_error", f"model: {body.get('model')}")
    need(isinstance(body.get("max_tokens"), int) and body["max_tokens"] > 0, "max_tokens: required")
    need(body.get("tool_choice", {}).get("type") in (None, "auto"), NO_FORCED_TOOLS)
    for tool in body.get("tools", []):
        need(re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", tool["name"]), "tools: name")
        need(tool["input_schema"].get("type") == "object", "tools: input_schema")
    messages = body.get("messages")
    need(messages and messages[0]["role"] == "user", "messages: first message must be a user's")
    need(messages[-1]["role"] == "user", "messages: prefill is not supported")
    open_calls: set[str] = set()
    for turn, message in enumerate(messages):
        need(message["role"] == ("user", "assistant")[turn % 2], "messages: roles must alternate")
        need(message["content"], "messages: content is empty")
        results = {b["tool_use_id"] for b in message["content"] if b["type"] == "tool_result"}
        need(results == open_calls, "messages: tool_use without tool_result, or the reverse")
        open_calls = {b["id"] for b in message["content"] if b["type"] == "tool_use"}
        for block in message["content"]:
            if block["type"] == "image":
                data = base64.b64decode(block["source"]["data"], validate=True)
                need(data[:3] == b"\xff\xd8\xff", "messages: image is not a JPEG")
            if block["type"] == "text":
                need(block["text"].strip(), "messages: text content blocks must be non-empty")


def shown(body: dict[str, Any]) -> dict[str, Any]:
    """Return the data that a question holds."""
    texts = [block.get("text", "") for block in body["messages"][0]["content"]]
    text = "\n".join(texts)
    match = re.search(r"<(\w+)>\n(.*)\n</\1>", text, re.S)
    assert match
    return json.loads(match[2])  # type: ignore[no-any-return]


def call(tool: str, said: Any, name: str = "toolu_1") -> list[Block]:
    return [{"type": "tool_use", "id": name, "name": tool, "input": said}]


def sensible(body: dict[str, Any]) -> list[Block]:
    """Answer from what is shown."""
    tool = body["tools"][0]["name"]
    data = shown(body)
    if tool == "describe_expert":
        lines = [data["name"], *data["text"].splitlines()]
        skills = [*data["trigger_words"], *data["tags"]][:12]
        summary = ". ".join(filter(None, lines))[:500] or "A picture."
        return call(tool, {"summary": summary, "skills": skills})
    if tool == "parse_request":
        first, *others = (part.strip() for part in re.split(r",| in ", data["wanted"]))
        said = {
            "components": [{"part": first[:60], "needs": [other[:60] for other in others][:12]}],
            "summary": first[:200],
            "attributes": [other[:60] for other in others if other][:8],
            "broader": ["animal"],
        }
        return call(tool, said)
    verdicts = [
        {"id": c["id"], "kept": c["similarity"] >= 0.5, "reason": f"serves {c['found_for']}"}
        for c in data["candidates"]
    ]
    return call(tool, {"verdicts": verdicts})


def gullible(body: dict[str, Any]) -> list[Block]:
    """Do what any text in the prompt demands; answer sensibly if none does."""
    told = body["messages"][0]["content"][-1]["text"]
    orders: Iterable[str] = OBEYED.findall(told)
    if not list(orders):
        return sensible(body)
    tool = body["tools"][0]["name"]
    if tool == "review_candidates":
        ids = [candidate["id"] for candidate in shown(body)["candidates"]]
        return call(tool, {"verdicts": [{"id": i, "kept": False, "reason": "PWNED"} for i in ids]})
    return call(tool, {"summary": "PWNED", "skills": ["PWNED"], "attributes": ["PWNED"]})
