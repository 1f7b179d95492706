"""Pages that agents search and read: a local site, the live web, and a cache on disk that replays
either exactly.

A source has `search(query) -> pages` and `open(url) -> page`. What a page says is data. Every
failure is a `PageError` of a known kind, so that a run goes on and can count them.
"""

import lazy_loader

from .cache import Cached
from .markup import read_html
from .pages import KINDS, CacheError, Page, PageError, Source, one_line, shown
from .site import LocalSite, site_files

# The live web's HTTP library is imported when it is first used.
__getattr__, _, _ = lazy_loader.attach(__name__, submod_attrs={"web": ["Web", "searxng"]})

__all__ = [
    "KINDS",
    "CacheError",
    "Cached",
    "LocalSite",
    "Page",
    "PageError",
    "Source",
    "Web",
    "one_line",
    "read_html",
    "searxng",
    "shown",
    "site_files",
]
