"""Templates that escape everything that comes from a store, and make hidden characters visible."""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'"
)
"""What a page may load: its own style, script and pictures, nothing inline and nothing from elsewhere."""

# Controls but tab and line feed; bidirectional controls, which make a text read as another; lone surrogates.
_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)
_PLAIN: Final = b"\n" + bytes(range(32, 127))


def visible(text: str) -> str:
    """The text without characters that hide, or that no file can hold; tabs and line feeds stay."""
    return _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text)


def encode_visible(text: str) -> bytes:
    """`visible` in UTF-8; ten times as fast where all of the text is printable, as it nearly always is."""
    data = text.encode(errors="surrogatepass")
    rest = data.translate(None, _PLAIN).decode(errors="surrogatepass")
    return data if rest.isprintable() else visible(text).encode()


@cache
def make_templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("leaderboard.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        auto_reload=False,
    )
    templates.globals |= {"policy": POLICY, "version": _version(), "facts": write_facts}
    return templates


def render(name: str, **values: object) -> bytes:
    # once for the whole page, since our own templates have no such characters: that is faster than for each value
    return encode_visible(make_templates().get_template(name).render(**values))


def write_facts(pairs: Iterable[tuple[str, str]]) -> Markup:
    """A list of names and values; a template would be slower, and a site has ten thousand pages with sixty each."""
    texts = iter(escape_all([text for pair in pairs for text in pair]))
    rows = [f"<div><dt>{name}</dt><dd>{value}</dd></div>\n" for name, value in zip(texts, texts, strict=True)]
    return Markup(f'<dl class="facts">{"".join(rows)}</dl>')


def escape_all(texts: Sequence[str]) -> list[str]:
    """Escape texts for HTML, in elements or attributes; in one call unless one of them holds a NUL."""
    escaped = escape("\0".join(texts)).split("\0")
    return escaped if len(escaped) == len(texts) else [escape(text) for text in texts]


def _version() -> str:
    try:
        return version("piggyback-bench")
    except PackageNotFoundError:  # run from a checkout that nobody installed
        return "(not installed)"
