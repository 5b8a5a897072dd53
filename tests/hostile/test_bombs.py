"""A few bytes that stand for very many cost no more memory or time than any input may."""

import asyncio
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffgraph.agents.example_images import MOST_DECODED, MOST_PIXELS, example_images, small
from diffgraph.crawlers.web import Web, WebConfig, decoded
from diffgraph.evaluation.prompt_sets import read_prompts
from diffgraph.evaluation.retrieval_metrics import read_labels
from diffgraph.experts.expert import ExpertRef, ListedImage, Listing
from diffgraph.merging.plan_files import read_plan
from tests.hostile.memory import costs
from tests.servers.raw_server import RawServer, Talk, say

PAGE = Listing(
    ref=ExpertRef(source="hub", model="1", version="1"),
    name="Snow",
    images=(ListedImage(url="1.png"),),
)


def answers() -> dict[str, tuple[bytes, str]]:
    """Return bodies, and the encodings that they state."""
    half_a_gibibyte = gzip.compress(bytes(1 << 20)) * 512
    values = b",".join(b'{"k%07d":1.5%07d}' % (i, i) for i in range(395_000))
    return {
        "gzip": (half_a_gibibyte, "gzip"),
        "gzip in gzip": (gzip.compress(half_a_gibibyte, 1), "gzip, gzip"),
        "deflate": (half_a_gibibyte, "deflate"),
        "br": (half_a_gibibyte, "br"),
        "empty members": (gzip.compress(b"") * 300_000, "gzip"),
        "values": (gzip.compress(b'["\xf0\x9f\x98\x80",' + values + b"]", 1), "gzip"),
    }


def ask(url: str) -> str:
    async def body() -> bytes:
        server = Web(url, None, WebConfig(tries=1))
        try:
            return await server.get("/list")
        finally:
            await server.close()

    return type(decoded(asyncio.run(body()), "the list")).__name__


def _crumbs() -> Talk:
    """Answer a byte at a time, each in a chunk of its own."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return lambda connection, _: connection.sendall(head + b"1\r\n0\r\n" * 200_000 + b"0\r\n\r\n")


def test_an_answer() -> None:
    talks = {name: say("200 OK", body, f"Content-Encoding: {stated}")
             for name, (body, stated) in answers().items()}  # fmt: skip
    servers = [RawServer(talk) for talk in (say("200 OK", b"[]"), *talks.values(), _crumbs())]
    for server in servers:
        server.__enter__()
    try:
        found = costs(ask, [servers[0].url], [server.url for server in servers[1:]])
    finally:
        for server in servers:
            server.__exit__()
    told = dict(zip((*talks, "crumbs"), found, strict=True))
    assert {name: cost for name, cost in told.items() if not cost.is_fair} == {}
    assert "more than 16 MiB" in told["gzip"].said
    assert "not asked for" in told["gzip in gzip"].said
    assert told["values"].said == "list"  # as many as an answer may have
    assert "pieces of less than" in told["crumbs"].said


def picture(form: str, mode: str, width: int, height: int, **options: object) -> bytes:
    out = io.BytesIO()
    Image.new(mode, (width, height)).save(out, form, **options)
    return out.getvalue()


def test_an_opaque_image_is_shown_as_it_is() -> None:
    """In strips, it looks no different."""
    image = Image.effect_noise((700, 700), 90).convert("RGB")
    out = io.BytesIO()
    image.save(out, "PNG")
    image.thumbnail((512, 512))
    expected = io.BytesIO()
    image.save(expected, "JPEG", quality=80)
    assert small(out.getvalue()) == expected.getvalue()


def repeated(text: str | bytes, times: int) -> pa.DictionaryArray:
    """One text that is kept once, and stands in many rows."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * times, pa.int32()), pa.array([text]))


def _as_table(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path, compression="zstd")
    return path


def _as_png(path: Path, *texts: tuple[str, str]) -> Path:
    about = PngInfo()
    for name, text in texts:
        about.add_text(name, text, zip=True)
    Image.new("RGB", (8, 8)).save(path, pnginfo=about)
    return path


PLAN = json.dumps(
    {"family": "emoji64", "experts": [{"ref": "a:1@1", "kind": "peft", "coefficient": 1.0}]}
)
MEBIBYTE = "x" * (1 << 20)


def _images() -> dict[str, bytes]:
    side, jpeg = int(MOST_DECODED**0.5), int(MOST_PIXELS**0.5)
    return {
        "palette": picture("PNG", "P", side, side, transparency=0, compress_level=1),
        "WebP": picture("WEBP", "RGBA", side, side, quality=1, method=0),
        "progressive": picture(
            "JPEG", "CMYK", jpeg, jpeg, quality=1, progressive=True, subsampling=0
        ),
        "tall": picture("PNG", "1", 1, MOST_PIXELS - 1, compress_level=1),
        "too large": picture("PNG", "1", side + 9, side + 9, compress_level=1),
    }


def _tables(folder: Path, column: str) -> list[Path]:
    lists = pa.ListArray.from_arrays(
        pa.array([0, 2_000_000], pa.int32()), repeated("x" * 9_000, 2_000_000)
    )
    folder.mkdir()
    return [
        _as_table(folder / "a.parquet", **{column: repeated(MEBIBYTE, 100_000)}),
        _as_table(folder / "b.parquet", **{column: repeated(MEBIBYTE, 400).cast(pa.string())}),
        _as_table(folder / "c.parquet", **{column: repeated(MEBIBYTE.encode(), 1_000)}),
        _as_table(folder / "d.parquet", **{column: [PLAN], "experts": lists}),
    ]


def test_a_file(tmp_path: Path) -> None:
    good = _as_table(tmp_path / "good.parquet", plan=[PLAN], prompt=["a cat"], experts=[["hub:1"]])
    harmless: list[tuple[str, object]] = [
        ("plan", good), ("plan", _as_png(tmp_path / "good.png", ("plan", PLAN))),
        ("prompts", good), ("labels", good),
        ("image", picture("PNG", "RGB", 8, 8)),
    ]  # fmt: skip
    plans, prompts = _tables(tmp_path / "plans", "plan"), _tables(tmp_path / "prompts", "prompt")
    hostile = {
        **{("plan", path.name): path for path in plans},
        **{("prompts", path.name): path for path in prompts},
        **{("labels", path.name): path for path in prompts},
        **{("image", name): data for name, data in _images().items()},
        ("plan", "a text"): _as_png(tmp_path / "a.png", ("plan", " " * (1 << 26))),
        ("plan", "texts"): _as_png(
            tmp_path / "b.png", *((f"k{n}", " " * 1_000_000) for n in range(70))
        ),
        ("plan", "values"): _as_png(tmp_path / "c.png", ("plan", "[" + "0," * 400_000 + "0]")),
    }
    told = costs(reading, harmless, [(kind, given) for (kind, _), given in hostile.items()])
    found = dict(zip(hostile, told, strict=True))
    assert {name: cost for name, cost in found.items() if not cost.is_fair} == {}
    refused = [name for (kind, name), cost in found.items() if kind == "image" and cost.said == "0"]
    assert refused == ["tall", "too large"]


def reading(given: tuple[str, object]) -> int:
    """Read what is given as the kind that is named; return how much came."""
    kind, what = given
    if isinstance(what, bytes):
        return sum(map(len, example_images(PAGE, lambda *_: what)))
    assert isinstance(what, Path)
    readers: dict[str, Callable[[Path], Any]] = {
        "plan": read_plan,
        "prompts": lambda path: read_prompts(path).prompts,
        "labels": read_labels,
    }
    return len(readers[kind](what))
