"""HTML pages from the templates in `grpo/assets/`: no network, no JavaScript, and all text escaped.

Used by `run_report`, `sweep_report` and `preflight_report`. It knows nothing of what a page shows.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from grpo.core.files import atomic_write
from grpo.core.text import printable
from grpo.reports.figures import COLOURS, Chart

UNITS = "points?|steps?|seeds?|problems?|tokens?|completions|prompts|threads?|comparisons|jobs?|arms?|GiB|MiB|s"


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Render a template of `grpo/assets/` with the values, and write it to `path`."""
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
        "units": units,
    }
    page = environment.get_template(template).render(colours=COLOURS, **values)
    with atomic_write(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def escape_invisible(value: Any) -> Any:
    """A value that a template prints, with invisible characters escaped; the filters below have done that already."""
    return value if isinstance(value, Markup | int | float) else printable(str(value))


def render_svg(chart: Chart) -> Markup:
    """The `<svg>` of a chart, in which Matplotlib has escaped the text."""
    return Markup(printable(chart.svg()))


def highlight_tags(completion: str, tags: Sequence[str]) -> Markup:
    """A completion with the `tags` of its format in `<b>`."""
    text = printable(completion).strip("\n")
    parts, end = [], 0
    for tag in re.finditer("|".join(map(re.escape, tags)), text):
        parts += [escape(text[end : tag.start()]), Markup("<b>{}</b>").format(tag[0])]
        end = tag.end()
    return Markup("").join([*parts, escape(text[end:])])


def breakable_name(name: str) -> Markup:
    """A name in which a line may break after an underscore."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=_)", printable(name)))


def units(sentence: str) -> str:
    """A sentence in which no line breaks between a number and its unit, or within an interval."""
    sentence = re.sub(rf"(?<=\d) (?=(?:{UNITS})\b)", "\N{NO-BREAK SPACE}", sentence)
    return re.sub(r"(?<=[\d%]) to (?=[-+]?\d)", "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}", sentence)


def relative_link(page: Path, folder: Path) -> str:
    """The address of a page for a link in another page, which is in `folder`."""
    return quote(Path(os.path.relpath(page.resolve(), folder.resolve())).as_posix())
