"""The prompt in an example image is read without decoding a pixel, whatever else is in the file."""

import io
import os
import struct
import zlib
from functools import cache
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffgraph.crawlers.image_prompts import prompt_in

PARAMETERS = (
    "a fox, (ink:1.2) <lora:wash:0.8>\nsecond line\nNegative prompt: blurry\n"
    "Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 512x512"
)
PROMPT = "a fox, (ink:1.2) <lora:wash:0.8> second line"


def png(path: Path, written: str, key: str = "parameters", zipped: bool = False) -> Path:
    about = PngInfo()
    about.add_text(key, written, zip=zipped)
    Image.new("RGB", (4, 4)).save(path, pnginfo=about)
    return path


def exif(path: Path, comment: bytes) -> Path:
    image = Image.new("RGB", (4, 4))
    about = image.getexif()
    about.get_ifd(0x8769)[0x9286] = comment
    image.save(path, exif=about)
    return path


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(*chunks: bytes, width: int = 4) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, width, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


@pytest.mark.parametrize("zipped", [False, True])
def test_in_a_png(tmp_path: Path, zipped: bool) -> None:
    assert prompt_in(png(tmp_path / "a.png", PARAMETERS, zipped=zipped)) == PROMPT


@pytest.mark.parametrize("ending", ["jpg", "webp"])
@pytest.mark.parametrize(
    "comment",
    [
        b"UNICODE\0" + PARAMETERS.encode("utf-16-be"),
        b"UNICODE\0" + PARAMETERS.encode("utf-16-le"),
        b"ASCII\0\0\0" + PARAMETERS.encode(),
        b"\0" * 8 + PARAMETERS.encode(),
    ],
)
def test_in_a_jpeg_or_webp(tmp_path: Path, ending: str, comment: bytes) -> None:
    assert prompt_in(exif(tmp_path / f"a.{ending}", comment)) == PROMPT


def test_without_settings_and_in_other_letters(tmp_path: Path) -> None:
    assert prompt_in(png(tmp_path / "a.png", "水墨, a fox")) == "水墨, a fox"
    ours = exif(tmp_path / "a.jpg", b"UNICODE\0" + "水墨, a fox".encode("utf-16-le"))
    assert prompt_in(ours) == "水墨, a fox"
    assert prompt_in(png(tmp_path / "b.png", "Steps: 20, Sampler: Euler")) == ""
    assert prompt_in(png(tmp_path / "c.png", "three steps: up, down")) == "three steps: up, down"


def test_what_tells_no_prompt(tmp_path: Path) -> None:
    assert prompt_in(png(tmp_path / "a.png", '{"3": {}}', key="prompt")) == ""  # ComfyUI's graph
    Image.new("RGB", (4, 4)).save(tmp_path / "b.jpg")
    assert prompt_in(tmp_path / "b.jpg") == ""
    assert prompt_in(tmp_path / "missing.png") == ""


@cache
def hostile() -> dict[str, bytes]:
    bomb = zlib.compress(b"x" * (80 << 20))
    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "JPEG")
    jpeg = picture.getvalue()
    return {
        "text that inflates to 80 MB": raw_png(chunk(b"zTXt", b"parameters\0\0" + bomb)),
        "text that inflates to 80 MB, in other letters": raw_png(
            chunk(b"iTXt", b"parameters\0\1\0\0\0" + bomb)
        ),
        "a hundred texts": raw_png(*[chunk(b"tEXt", b"a\0" + b"x" * (1 << 20))] * 30),
        "more pixels than there are": raw_png(width=2**31 - 1),
        "a chunk that ends nowhere": raw_png() + struct.pack(">I", 2**31 - 1) + b"tEXtparam",
        "cut": raw_png(chunk(b"tEXt", b"parameters\0x"))[:40],
        "nothing": b"",
        "noise": bytes(range(256)) * 40,
        "EXIF that leads in a circle": jpeg[:2] + b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\1"
        b"\x87\x69\0\4\0\0\0\1\0\0\0\x08\0\0\0\x08" + jpeg[2:],
        "EXIF of numbers too large": jpeg[:2] + b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\1"
        b"\x87\x69\0\4\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\x08" + jpeg[2:],
        "WebP of another size": b"RIFF\xff\xff\xff\x7fWEBPVP8X\x0a\0\0\0\x08" + b"\xff" * 20,
    }


@pytest.mark.parametrize("name", hostile())
def test_hostile_images_have_none(tmp_path: Path, name: str) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(hostile()[name])
    assert len(prompt_in(file)) <= 2_000
    assert "x" * 10 not in prompt_in(file)


def test_what_is_no_image_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert prompt_in(tmp_path / "pipe.png") == ""
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "a.png").symlink_to(png(tmp_path / "secret.png", "a secret"))
    assert prompt_in(inside / "a.png") == ""
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(40 << 20)
    assert prompt_in(tmp_path / "huge.png") == ""
