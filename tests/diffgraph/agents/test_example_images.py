import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from diffgraph.agents.example_images import LARGEST_FILE, LONGEST_SIDE, ImageReader, small
from diffgraph.experts.expert import ExpertRef, Listing

PAGE = Listing(ref=ExpertRef(source="hub", model="1", version="1"), name="Snow")


def encoded(size: tuple[int, int] = (64, 48), mode: str = "RGB", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size).save(out, options.pop("format", "PNG"), **options)
    return out.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
def test_every_usual_format_becomes_a_small_jpeg(form):
    with Image.open(io.BytesIO(small(encoded((1200, 300), format=form)))) as image:
        assert (image.format, image.size) == ("JPEG", (LONGEST_SIDE, LONGEST_SIDE // 4))


def test_what_is_transparent_is_white_and_metadata_is_gone():
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    data = small(encoded(mode="RGBA", exif=exif))
    with Image.open(io.BytesIO(data)) as image:
        assert image.getpixel((5, 5)) == (255, 255, 255)
    assert b"secret" not in data


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of a few bytes that claims to be huge."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    crc = struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + crc


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>", b"\x89PNG\r\n\x1a\n", bomb(), bomb(9_000, 9_000), encoded()[:60],
     b"x" * (LARGEST_FILE + 1), b"GIF89a" + b"\xff" * 50, encoded(format="BMP")],
    ids=["empty", "html", "header", "bomb", "large", "cut", "long", "gif", "another format"],
)  # fmt: skip
def test_what_is_no_image_or_too_large_is_refused(data):
    with pytest.raises((ValueError, OSError)):
        small(data)


def test_reads_files_of_a_hub_folder_and_nothing_outside(tmp_path):
    (tmp_path / "hub" / "images").mkdir(parents=True)
    (tmp_path / "hub" / "images" / "a.png").write_bytes(encoded())
    (tmp_path / "secret.png").write_bytes(encoded())
    (tmp_path / "hub" / "link.png").symlink_to(tmp_path / "secret.png")
    read = ImageReader({"hub": tmp_path / "hub"})
    assert read(PAGE, "images/a.png") == encoded()
    for path in ("../secret.png", str(tmp_path / "secret.png"), "link.png", "images", "b.png"):
        with pytest.raises(ValueError, match="no file of the hub"):
            read(PAGE, path)


@pytest.mark.parametrize(
    "url",
    [
        "http://image.civitai.com/a.png",  # not encrypted
        "https://169.254.169.254/latest/meta-data",
        "https://127.0.0.1:8080/a.png",
        "https://image.civitai.com.evil.example/a.png",
        "https://image.civitai.com@127.0.0.1/a.png",
        "https://image.civitai.com:8443/a.png",
        "file:///etc/passwd",
        "ftp://image.civitai.com/a.png",
    ],
)
def test_only_known_hosts_are_asked(url):
    with pytest.raises(ValueError, match="is not a known host"):
        ImageReader({}, {"image.civitai.com"})(PAGE, url)
