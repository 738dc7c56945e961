"""The HTML page: one file that needs no network, readable on a phone."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from PIL import Image

from torchreid_spectral.data.images import decode

__all__ = ["Section", "data_url", "description", "render", "text_table"]

STYLE = """
:root{--ink:#1b1b1b;--soft:#555;--line:#d4d4d4;--right:#005a8c;--wrong:#b34700;--paper:#fff}
*{box-sizing:border-box}
body{margin:0;font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper)}
header,main{max-width:1100px;margin:0 auto;padding:0 16px}
h1{font-size:1.5rem;margin:.8em 0 .2em;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:1.6em 0 .3em}
nav{position:sticky;top:0;background:#fff;border-bottom:1px solid var(--line);z-index:1}
nav ul{max-width:1100px;margin:0 auto;padding:4px 12px;display:flex;overflow-x:auto;
list-style:none;gap:4px}
nav a{display:block;padding:10px 8px;color:var(--right);white-space:nowrap}
section{scroll-margin-top:60px}
p{max-width:75ch}
.note{color:var(--soft);font-size:.92rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:6px 9px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
figure{margin:12px 0}
figure svg{max-width:100%;height:auto}
.scroll{overflow-x:auto}
.row{display:flex;flex-wrap:wrap;gap:0 24px}
.narrow-only{display:none}
.list{display:flex;gap:8px;overflow-x:auto;padding:4px 0 10px}
.card{flex:0 0 auto;width:84px;font-size:.8rem;text-align:center;line-height:1.25}
.card img{width:76px;height:152px;object-fit:fill;display:block;margin:0 auto 2px;
border:4px solid var(--soft)}
.card b{display:block;white-space:nowrap}
.right img{border-color:var(--right)} .right b{color:var(--right)}
.wrong img{border:4px dashed var(--wrong)} .wrong b{color:var(--wrong)}
details{border:1px solid var(--line);border-radius:6px;margin:8px 0;padding:0 12px}
summary{padding:11px 0;cursor:pointer}
.maps{display:flex;flex-wrap:wrap;gap:12px 20px}
.maps div{display:flex;gap:2px}
.maps img{width:76px;height:152px}
@media(max-width:700px){
.narrow-only{display:block} .wide-only{display:none}
.scroll svg{max-width:none}
th,td{padding:6px 3px;font-size:.8rem}
td:first-child{white-space:normal}
.card{width:70px;font-size:.7rem} .card img{width:66px;height:132px}
.maps img{width:70px;height:140px}
}
a:focus-visible,summary:focus-visible{outline:3px solid #e69f00}
"""


@dataclass
class Section:
    """One part of the page.

    Args:
        key: Anchor.
        title: Heading.
        text: One or two sentences on what is seen.
        body: HTML.
        notes: Lines in small print below.
    """

    key: str
    title: str
    text: str
    body: str
    notes: list[str] = field(default_factory=list)


def render(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Assemble the page.

    Args:
        title: Heading and window title, plain text.
        subtitle: Line below it, plain text.
        sections: Parts in order.

    Returns:
        The HTML document.
    """
    links = "".join(f'<li><a href="#{s.key}">{html.escape(s.title)}</a></li>' for s in sections)
    parts = "".join(
        f'<section id="{s.key}"><h2>{html.escape(s.title)}</h2><p>{html.escape(s.text)}</p>'
        f"{s.body}" + "".join(f'<p class="note">{html.escape(n)}</p>' for n in s.notes)
        + "</section>\n"
        for s in sections
    )  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<header><h1>{html.escape(title)}</h1><p>{html.escape(subtitle)}</p></header>"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav><main>\n{parts}</main></body></html>\n'
    )


def text_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table of plain text.

    Args:
        heads: Column titles.
        rows: Cells.

    Returns:
        HTML.
    """
    top = "".join(f'<th scope="col">{html.escape(head)}</th>' for head in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def data_url(picture: Image.Image | str | Path, size: tuple[int, int] = (76, 152)) -> str:
    """Embed a picture.

    Args:
        picture: PIL image or path.
        size: Width and height it is drawn with.

    Returns:
        A ``data:`` address.
    """
    if not isinstance(picture, Image.Image):
        picture = decode(str(picture))
    buffer = BytesIO()
    picture.convert("RGB").resize(size).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def description(pairs: Mapping[str, object]) -> str:
    """Lay out names and values.

    Args:
        pairs: Name to value.

    Returns:
        HTML.
    """
    return text_table(["", ""], [[name, str(value)] for name, value in pairs.items()])
