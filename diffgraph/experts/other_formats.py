"""What is a file that is called weights and is no safetensors, by its first bytes?"""

import codecs
from collections.abc import Mapping

from diffgraph.errors import DamagedFile, ExpertError, UnknownFormat, UnsafeFile

BYTES = 32  # how many of the first bytes are looked at
LENGTH_BYTES = 8  # safetensors begin with the length of their header, which is a JSON object

PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
ZIP = b"PK\x03\x04"  # torch.save writes a pickle inside a zip
PAGES = ("<!doctype", "<html", "<?xml", "<head", "<body", "<!--", "<svg")
POINTER = "version https://"  # of git-lfs.github.com/spec/v1
OTHERS: Mapping[str, tuple[bytes, ...]] = {
    "a GGUF file, of quantised weights": (b"GGUF",),
    "a GGML file, of quantised weights": (b"lmgg", b"tjgg", b"fmgg", b"algg", b"ggml", b"ggjt"),
    "an HDF5 file": (b"\x89HDF\r\n\x1a\n",),
    "an ONNX model": tuple(
        bytes([8, version, tag]) for version in range(1, 32) for tag in (18, 58)
    ),
    "a TensorFlow Lite model": tuple(bytes([at, 0, 0, 0]) + b"TFL3" for at in range(16, 64, 4)),
    "a NumPy array": (b"\x93NUMPY",),
    "an image": (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF"),
    "an archive": (
        *(b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"7z\xbc\xaf\x27\x1c", b"Rar!"),
        *(b"\x28\xb5\x2f\xfd", b"PK\x05\x06", b"PK\x07\x08"),
    ),
    "a program": (b"\x7fELF", b"MZ"),
    "a PDF": (b"%PDF",),
    "a database": (b"SQLite format",),
}
"""What else is offered under the name of weights -> how it begins."""
ONLY = "; only safetensors is read"


def other_format(start: bytes, longest_header: int) -> tuple[type[ExpertError], str] | None:
    """Return which error a file's first bytes are, and why; None if it may be safetensors."""
    # the length of a header may begin like a pickle, but below 16 MB it goes on with zeros
    is_pickle = start.startswith(PICKLES) and start[3:8] != bytes(5)
    if is_pickle or start.startswith(ZIP):
        return UnsafeFile, f"a pickle, which can run code{ONLY}"
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if length <= longest_header:
        return None
    for what, starts in OTHERS.items():
        if start.startswith(starts):
            return UnknownFormat, what + ONLY
    text = _text(start)
    if text.lstrip().lower().startswith(PAGES):
        return DamagedFile, "a web page, not weights"
    if text.startswith(POINTER):
        return DamagedFile, "a pointer of Git LFS: the weights themselves were not downloaded"
    return (DamagedFile, f"text, not weights: {text!r}…") if text else None


def _text(start: bytes) -> str:
    """Return the first bytes as text; nothing if they hold what no text does."""
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(start)
    except UnicodeDecodeError:
        return ""
    return text if all(sign.isprintable() or sign.isspace() for sign in text) else ""
