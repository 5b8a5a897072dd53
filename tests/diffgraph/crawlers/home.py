"""A home folder that tests crawl into."""

from pathlib import Path

from diffgraph.crawlers.web import WebConfig
from diffgraph.experts.library import Library

TOKEN = "a-secret-token"
QUICK = WebConfig(page_size=10, first_wait=0.001, longest_wait=0.002, silence=600.0, tries=3)


class Home:
    """A home folder; a subclass says how a hub is crawled into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def library(self) -> Library:
        return Library(self.folder, bundled=())
