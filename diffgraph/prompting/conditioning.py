"""How do weighted, long and chunked texts become what a denoiser is conditioned on?

As compel weighs them (https://github.com/damian0815/compel), in A1111's syntax: a token that
weighs w > 1 lies w times as far from the states of an empty text; a part that weighs less than 1
is blended with the text in which nobody attends to it. A text of the usual weight that fits is
read as diffusers reads it.
"""

import logging
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from diffgraph.errors import InputError
from diffgraph.prompting.weights import Fragment, WeightedText, weighted

MOST_CHUNKS = 20
"""Of one prompt: the denoiser attends to all of them at every step."""

MOST_LIGHTER = 100
"""Parts of one prompt that weigh less than 1: each is a pass of the text encoder."""

ROWS_AT_ONCE = 64  # of one prompt, in one pass of the text encoder

Encode = Callable[[Tensor, Tensor | None], Tensor]
"""(token ids (n, length), attention mask likewise or None) -> states (n, length, width)."""

Chunk = tuple[list[str], list[float]]  # texts, and how much each weighs
Row = tuple[tuple[int, ...], tuple[int, ...]]  # token ids, and which of them are attended to

log = logging.getLogger(__name__)


class TextReader:
    """Reads texts with one tokenizer and text encoder.

    Args:
        tokenizer: of CLIP or T5.
        encoder: says its device, its type and its width.
        length: tokens that the encoder reads at once, its marks included.
        in_chunks: longer texts are read one chunk after the other; otherwise they are cut, which
            is logged, and `BREAK` is a space.
    """

    def __init__(self, tokenizer: Any, encoder: Any, length: int, in_chunks: bool) -> None:
        self.tokenizer, self.encoder = tokenizer, encoder
        self.length, self.in_chunks = length, in_chunks
        # it would warn of indexing errors; what is too long is seen to here
        known = "sequence-length-is-longer-than-the-specified-maximum"
        tokenizer.deprecation_warnings[known] = True

    def chunks(self, text: str) -> int:
        """Return how many chunks a text takes, from 1; raises `InputError` if it is too long."""
        parsed = self._weighted(text)
        if not self.in_chunks or self._padded([parsed]) is not None:
            return 1
        provider = self._provider(_Rows(self.encoder))
        tokens = [
            provider.get_token_ids_and_expand_weights(*chunk, device="cpu")[0]
            for chunk in self._parts(parsed)
        ]
        return sum(map(len, tokens)) // self.length

    def read(self, texts: Sequence[str], encode: Encode, least: int = 1) -> Tensor:
        """Return the states of texts with weights: (texts, chunks * length, width).

        A text of fewer chunks than another is filled up with those of an empty text. Row i of a
        batch that is encoded is of text i, or all are of one text: so every text may have an
        encoder of its own.

        Args:
            texts: as `WrittenPrompt.text` has them.
            encode: runs the text encoder.
            least: as many chunks are returned at least.

        Raises:
            InputError: a text is too long, or too many of its parts weigh less than 1.
        """
        parsed = [self._weighted(text) for text in texts]
        ids = self._padded(parsed) if least == 1 else None
        if ids is not None:
            return encode(torch.tensor(ids, device=self.encoder.device), None)
        rows = [_Rows(self.encoder) for _ in parsed]
        parts = [self._parts(text) for text in parsed]
        for chunks, own in zip(parts, rows, strict=True):
            self._states(chunks, own)  # notes what is to be encoded
        _fill(rows, encode)
        states = [self._states(*both) for both in zip(parts, rows, strict=True)]
        longest = max(least * self.length, *(found.shape[1] for found, _ in states))
        filled = [
            torch.cat([found, *[empty] * ((longest - found.shape[1]) // self.length)], 1)
            for found, empty in states
        ]
        return torch.cat(filled)

    def _weighted(self, text: str) -> WeightedText:
        parsed = weighted(text)
        if self.in_chunks or len(parsed.chunks) == 1:
            return parsed
        parts = [part for chunk in parsed.chunks for part in (*chunk, Fragment(" "))]
        return WeightedText((tuple(parts[:-1]),), parsed.unsupported)

    def _padded(self, texts: Sequence[WeightedText]) -> list[list[int]] | None:
        """Return each text's token ids, (texts, length); None if one is weighted or too long."""
        if not all(text.is_plain for text in texts):
            return None
        plain = ["".join(part.text for part in text.chunks[0]) for text in texts]
        how = {"padding": "max_length", "max_length": self.length}
        rows = self._ids(plain, **how)
        longest = max(map(len, rows))
        if longest <= self.length:
            return rows
        if self.in_chunks:
            return None
        self._say_what_is_cut(longest)
        return self._ids(plain, truncation=True, **how)

    def _ids(self, texts: Sequence[str], **how: Any) -> list[list[int]]:
        ids: list[list[int]] = self.tokenizer(list(texts), **how).input_ids
        return ids

    def _say_what_is_cut(self, tokens: int) -> None:
        log.warning(
            "a prompt has %d tokens: this model reads %d of them, the end is not drawn",
            tokens,
            self.length,
        )

    def _parts(self, text: WeightedText) -> list[Chunk]:
        """Return each chunk's texts and weights, without what the tokenizer does not see."""
        marks = len(self._ids([""])[0])
        chunks: list[Chunk] = []
        tokens = 0
        for chunk in text.chunks:
            counts = [len(ids) - marks for ids in self._ids([part.text for part in chunk] or [""])]
            tokens += sum(counts)
            seen = [part for part, count in zip(chunk, counts, strict=False) if count]
            if seen:
                chunks.append(([part.text for part in seen], [part.weight for part in seen]))
        lighter = sum(weight < 1 for _, weights in chunks for weight in weights)
        most = MOST_CHUNKS * (self.length - marks)
        if self.in_chunks and max(tokens, len(chunks) * (self.length - marks)) > most:
            raise InputError(f"a prompt of {tokens} tokens is too long: it may have {most}")
        if lighter > MOST_LIGHTER:
            raise InputError(f"{lighter} parts of a prompt weigh less than 1: {MOST_LIGHTER} may")
        if not self.in_chunks and tokens + marks > self.length:
            self._say_what_is_cut(tokens + marks)
        return chunks or [([""], [1.0])]

    def _states(self, chunks: Sequence[Chunk], rows: "_Rows") -> tuple[Tensor, Tensor]:
        """Return the states of a text, (1, chunks * length, width), and an empty chunk's."""
        provider, device = self._provider(rows), self.encoder.device
        states = [
            provider.get_embeddings_for_weighted_prompt_fragments([texts], [weights], device=device)
            for texts, weights in chunks
        ]
        return torch.cat(states, 1), provider.empty_z

    def _provider(self, rows: "_Rows") -> Any:
        from transformers.utils import logging as transformers_logging

        usual = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()  # of image processors, which are not used
        try:
            from compel.embeddings_provider import EmbeddingsProvider, SplitLongTextMode
        finally:
            transformers_logging.set_verbosity(usual)
        return EmbeddingsProvider(
            self.tokenizer,
            rows,
            truncate=not self.in_chunks,
            split_long_text_mode=SplitLongTextMode.SENTENCES,
            model_max_length=self.length,
        )


class _Rows:
    """Stands for a text encoder: notes what it is to read, and answers with it once it is read."""

    def __init__(self, encoder: Any) -> None:
        self.device, self.dtype = encoder.device, encoder.dtype
        self._width = encoder.config.hidden_size
        self.states: dict[Row, Tensor] = {}

    def __call__(self, ids: Tensor, mask: Tensor | None = None, **_: Any) -> SimpleNamespace:
        seen = torch.ones_like(ids) if mask is None else mask
        row = tuple(ids[0].tolist()), tuple(seen[0].tolist())
        if row not in self.states:
            self.states[row] = torch.zeros(
                1, ids.shape[1], self._width, device=self.device, dtype=self.dtype
            )
        return SimpleNamespace(last_hidden_state=self.states[row])


def _fill(texts: Sequence[_Rows], encode: Encode) -> None:
    """Encode what was noted: one row of each text at a time, or many of a single text."""
    device = texts[0].device
    queues = [list(text.states) for text in texts]
    turns = max(map(len, queues))
    at_once = ROWS_AT_ONCE if len(texts) == 1 else 1
    for start in range(0, turns, at_once):
        places = range(start, min(start + at_once, turns))
        # a text with fewer rows has its last one encoded again, so that every one has its place
        batch = [
            (text, queue[min(place, len(queue) - 1)])
            for place in places
            for text, queue in zip(texts, queues, strict=True)
        ]
        ids, masks = (
            torch.tensor([row[part] for _, row in batch], device=device) for part in (0, 1)
        )
        for (text, row), states in zip(batch, encode(ids, masks), strict=True):
            text.states[row] = states[None]
