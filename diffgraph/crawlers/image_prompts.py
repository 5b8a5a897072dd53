"""Which prompt was an example image made with?

Tools that draw write it into what they save: A1111's `parameters` in a PNG's text, its EXIF
UserComment in JPEG and WebP; https://exiftool.org/TagNames/EXIF.html. The image is a stranger's:
its pixels are never decoded, and what cannot be read has no prompt.
"""

import re
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from diffgraph.crawlers.civitai_pages import PROMPT_CHARACTERS, text
from diffgraph.errors import MissingInput
from diffgraph.foreign_files import open_foreign

if TYPE_CHECKING:
    from PIL import Image

LARGEST_IMAGE = 32 << 20  # bytes
MOST_CHARACTERS = 100_000
END = re.compile(r"^\s*(?:negative prompt:|steps: *\d+\s*(?:,|$))", re.I | re.M)
"""Where a prompt ends in `parameters`."""
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286
ENCODINGS = {b"UNICODE\0": ("utf-16-be", "utf-16-le"), b"ASCII\0\0\0": ("ascii",)}


def prompt_in(path: Path) -> str:
    """Return the prompt in an image, as it was written; "" if there is none that can be read."""
    from PIL import Image

    try:
        with open_foreign(path, LARGEST_IMAGE, inside=path.parent) as file:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pixels, which nobody decodes
                with Image.open(file, formats=("PNG", "JPEG", "WEBP")) as image:
                    written = image.info.get("parameters") or _user_comment(image)
    except (MissingInput, OSError, ValueError, SyntaxError, ArithmeticError, struct.error,
            LookupError, TypeError, AttributeError, Image.DecompressionBombError):  # fmt: skip
        return ""
    if not isinstance(written, str):
        return ""
    written = written[:MOST_CHARACTERS]
    end = END.search(written)
    return text(written[: end.start()] if end else written, PROMPT_CHARACTERS)


def _user_comment(image: "Image.Image") -> str:
    comment = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT)
    if not isinstance(comment, bytes):
        return comment if isinstance(comment, str) else ""
    encodings = ENCODINGS.get(comment[:8], ("utf-8",))
    body = comment[8 : 8 + 2 * MOST_CHARACTERS]
    found = (body.decode(encoding, "replace") for encoding in encodings)
    # which end comes first is not said: what is written is mostly of one byte a letter
    return max(found, key=lambda one: sum(letter < "\u0100" for letter in one)).strip("\0 ")
