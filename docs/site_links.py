"""On the site, a link to a source file is its name: the sources are not part of the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]+)\)")


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """Called by mkdocs for each page."""

    def name(link: re.Match[str]) -> str:
        if not (Path(config.docs_dir) / link[2]).exists():
            raise FileNotFoundError(link[2])
        return link[1]

    return _OUTSIDE.sub(name, markdown)
