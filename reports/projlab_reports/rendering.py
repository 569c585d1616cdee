"""The templates' environment: what a page and its Markdown twin are rendered in alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jinja2

from projlab_reports import units


def environment(*, html: bool, **filters: Callable[..., Any]) -> jinja2.Environment:
    """Return the environment of the package's templates, with these filters and `duration`.

    In HTML whatever was measured is escaped: shown, and never run. Markdown keeps its last newline,
    and its cells are escaped by the filter that writes a table.
    """
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("projlab_reports"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not html,
        autoescape=html,  # noqa: S701 - off for Markdown alone, whose cells `table` escapes
    )
    made.filters.update({"duration": units.duration, **filters})
    return made
