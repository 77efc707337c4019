"""A page of HTML that needs no network and no JavaScript, and in which any text stays text."""

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from grpo.core.files import atomic_write
from grpo.core.tables import FORMAT_TAG
from grpo.core.text import printable
from grpo.reports.figures import COLOURS, Chart


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Write what a template of `assets/` makes of the values."""
    environment = Environment(
        loader=PackageLoader("grpo", "assets"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=escape_invisible,
    )
    environment.filters |= {
        "highlight_tags": highlight_tags,
        "render_svg": render_svg,
        "breakable_name": breakable_name,
    }
    page = environment.get_template(template).render(colours=COLOURS, **values)
    with atomic_write(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def escape_invisible(value: Any) -> Any:
    """Whatever a template prints; only what the functions below have made stays as it is."""
    return value if isinstance(value, Markup | int | float) else printable(str(value))


def render_svg(chart: Chart) -> Markup:
    """Its `<svg>`; names in it are escaped there."""
    return Markup(printable(chart.svg()))


def highlight_tags(completion: str) -> Markup:
    """A completion with its tags marked."""
    text = printable(completion).strip("\n")
    parts, end = [], 0
    for tag in FORMAT_TAG.finditer(text):
        parts += [escape(text[end : tag.start()]), Markup("<b>{}</b>").format(tag[0])]
        end = tag.end()
    return Markup("").join([*parts, escape(text[end:])])


def breakable_name(name: str) -> Markup:
    """A name that may be broken after its underscores."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=_)", printable(name)))
