"""What is offered under the name of weights and is something else is told to be that."""

import gzip
import struct
from pathlib import Path

import pytest

from diffgraph.errors import DamagedFile, ExpertError, UnknownFormat
from diffgraph.experts.reading import open_delta
from tests.hostile.files import PARAMETERS, lora

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 9\n"
OFFERED: dict[str, tuple[bytes, type[ExpertError], str]] = {
    "GGUF": (b"GGUF" + struct.pack("<IQQ", 3, 291, 20) + bytes(99), UnknownFormat, "a GGUF file"),
    "GGML": (b"tjgg" + bytes(range(1, 99)), UnknownFormat, "a GGML file"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(99), UnknownFormat, "an HDF5 file"),
    "ONNX": (b"\x08\x07\x12\x07pytorch\x1a\x052.1.0:", UnknownFormat, "an ONNX model"),
    "TensorFlow Lite": (b"\x1c\0\0\0TFL3" + bytes(99), UnknownFormat, "a TensorFlow Lite model"),
    "NumPy": (b"\x93NUMPY\x01\0v\0{'descr'", UnknownFormat, "a NumPy array"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(99), UnknownFormat, "an image"),
    "JPEG": (b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(99), UnknownFormat, "an image"),
    "WebP": (b"RIFF\x24\1\2\3WEBPVP8 " + bytes(99), UnknownFormat, "an image"),
    "gzip": (gzip.compress(lora()), UnknownFormat, "an archive"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4" + bytes(99), UnknownFormat, "an archive"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04\x58\x19\1" + bytes(99), UnknownFormat, "an archive"),
    "program": (b"\x7fELF\2\1\1\0" + bytes(99), UnknownFormat, "a program"),
    "page": (b"\n  <!DOCTYPE html><html>log in", DamagedFile, "a web page"),
    "page with a mark": (b"\xef\xbb\xbf<html lang=en><p>log in", DamagedFile, "a web page"),
    "Git LFS": (POINTER, DamagedFile, "a pointer of Git LFS"),
    "error": (b'{"error":"Unauthorized"}', DamagedFile, 'text, not weights: \'{"error"'),
    "words": ("Доступ запрещён, войдите".encode(), DamagedFile, "text, not weights: 'Доступ"),
}


@pytest.mark.parametrize(("data", "error", "what"), OFFERED.values(), ids=OFFERED.keys())
@pytest.mark.parametrize("name", ["x.safetensors", "x.gguf"])
def test_a_file_says_what_it_is(
    data: bytes, error: type[ExpertError], what: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(error) as caught:
        open_delta(tmp_path / name, PARAMETERS)
    assert str(caught.value).startswith(f"{name}: is {what}")


def test_safetensors_whose_length_begins_like_another_format_are_read(tmp_path: Path) -> None:
    """A header of 23,117 bytes begins with the letters of a Windows program."""
    text = lora()[8:]
    header = int.from_bytes(lora()[:8], "little")
    for start in (b"MZ\0", b"BZh"):
        length = int.from_bytes(start, "little")
        padded = text[:header] + b" " * (length - header) + text[header:]
        path = tmp_path / f"{length}.safetensors"
        path.write_bytes(struct.pack("<Q", length) + padded)
        assert open_delta(path, PARAMETERS).updates
