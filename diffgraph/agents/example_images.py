"""What do an expert's example images show? Small, freshly encoded copies for a language model.

An image is an untrusted file behind an untrusted address. Only known hosts are asked, over HTTPS,
for a limited number of bytes and without following redirects; what comes is decoded, made small and
encoded anew, so that nothing but pixels goes on.
"""

import io
import logging
import time
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from diffgraph.errors import MissingInput, ServiceError
from diffgraph.experts.expert import Listing
from diffgraph.fetching.gate import Gate
from diffgraph.foreign_files import read_foreign

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

MOST_PICTURES = 4
LARGEST_FILE = 8 << 20
MOST_PIXELS = 32_000_000
MOST_DECODED = 14_000_000  # pixels that are in memory at once; a JPEG is decoded at a smaller size
LONGEST_EDGE = 20_000  # pixels
STRIP = 256  # rows
LONGEST_SIDE = 512  # pixels: about 350 tokens a picture
QUALITY = 80
TIMEOUT = 20.0  # seconds until the last byte

ReadImage = Callable[[Listing, str], bytes]
"""From a page and an address on it to the file's bytes; raises OSError or ValueError."""


def example_images(listing: Listing, read: ReadImage | None) -> tuple[bytes, ...]:
    """Return up to four of a page's example images as small JPEG files.

    What cannot be read, or is no image, is left out: a description does without.
    """
    found: list[bytes] = []
    if read is None:
        return ()
    for image in listing.images[: 3 * MOST_PICTURES]:
        if len(found) == MOST_PICTURES:
            break
        try:
            found.append(small(read(listing, image.url)))
        except (OSError, ValueError) as error:
            log.info("an example image of %s is left out: %s", listing.ref, error)
    return tuple(found)


def small(data: bytes) -> bytes:
    """Return an image as a JPEG whose longer side is at most 512 pixels, without metadata.

    Raises:
        ValueError: it is too large, or no image.
    """
    from PIL import Image, UnidentifiedImageError

    if len(data) > LARGEST_FILE:
        raise ValueError(f"the image has more than {LARGEST_FILE >> 20} MiB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP", "GIF")) as image:
                _demand_likely(image, MOST_PIXELS)
                image.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))
                _demand_likely(image, MOST_DECODED)
                pixels = _on_white(image)
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(f"no image: {error}") from error
    except Image.DecompressionBombWarning as error:
        raise ValueError(f"too many pixels: {error}") from error
    pixels.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    out = io.BytesIO()
    pixels.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


class ImageReader:
    """Reads example images of hub folders, and from the image hosts of hubs.

    Args:
        folders: where hubs are that lie on this machine, by the name of their source.
        hosts: the only hosts that are asked.
        gate: what requests pass; by default one for public addresses.
    """

    def __init__(
        self, folders: Mapping[str, Path], hosts: Collection[str] = (), gate: Gate | None = None
    ) -> None:
        self._gate = gate
        self._folders = {source: folder.resolve() for source, folder in folders.items()}
        self._hosts = frozenset(host.lower() for host in hosts)

    def __call__(self, listing: Listing, url: str) -> bytes:
        """Return a file's bytes; raises ValueError or OSError if it cannot be had."""
        folder = self._folders.get(listing.ref.source)
        if "://" in url:
            return self._fetched(url)
        if folder is None:
            raise ValueError("no folder is known for this hub")
        try:
            return read_foreign(folder / url, LARGEST_FILE, inside=folder)
        except MissingInput as error:
            raise ValueError(f"no file of the hub: {error}") from error

    def _fetched(self, url: str) -> bytes:
        import httpx

        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        if parts.scheme != "https" or host not in self._hosts or parts.port not in (None, 443):
            raise ValueError(f"{parts.scheme}://{host} is not a known host of images")
        data = bytearray()
        try:
            until = time.monotonic() + TIMEOUT
            with self._opened().answer(httpx.URL(url), {}, until, until, redirects=0) as answer:
                if answer.status_code != 200:
                    raise ValueError(f"{host} answered {answer.status_code}")
                for chunk in answer.iter_raw():
                    data += chunk
                    if len(data) > LARGEST_FILE:
                        raise ValueError(f"the image has more than {LARGEST_FILE >> 20} MiB")
        except (ServiceError, httpx.InvalidURL) as error:
            raise ValueError(f"{host}: {error}") from None
        return bytes(data)

    def _opened(self) -> Gate:
        if self._gate is None:
            self._gate = Gate((), silence=TIMEOUT)
        return self._gate


def _demand_likely(image: "Image.Image", most_pixels: int) -> None:
    width, height = image.size
    if width * height > most_pixels or max(image.size) > LONGEST_EDGE:
        raise ValueError(f"the image has {width}x{height} pixels")


def _on_white(image: "Image.Image") -> "Image.Image":
    """Return the first frame in RGB; what is transparent becomes white."""
    from PIL import Image

    seen = Image.new("RGB", image.size)
    for top in range(0, image.height, STRIP):  # strip by strip: a large one is in memory twice only
        box = (0, top, image.width, min(top + STRIP, image.height))
        part = image.crop(box).convert("RGBA")
        ground = Image.new("RGBA", part.size, "white")
        seen.paste(Image.alpha_composite(ground, part).convert("RGB"), box)
    return seen
