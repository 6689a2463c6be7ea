"""Figures as pieces of a page: inline SVG for plots, inline images for pictures, HTML for tables."""

import base64
import dataclasses
import html
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure as MplFigure
from PIL import Image

from cryoloom.contract import Figure
from cryoloom.report.draw import Drawings
from cryoloom.report.pictures import central_slices, gray_limits, surface_pictures, surface_volume
from cryoloom.report.plots import format_value
from cryoloom.report.style import report_style

_MARKS = {"passed": "good", "doubtful": "care", "failed": "bad"}

_WIDE = ("gallery", "volume", "table")


@dataclass(frozen=True)
class Piece:
    """One figure as HTML.

    Attributes
    ----------
    name, title, caption, kind
        Of the figure.
    body
        HTML of the picture itself.
    wide
        Whether it wants the whole width of the page.
    """

    name: str
    title: str
    caption: str
    kind: str
    body: str
    wide: bool


def make_piece(figure: Figure, drawings: Drawings | None = None) -> Piece:
    """Draw a figure for a page; one that cannot be drawn says so in its place."""
    try:
        body = _body(figure, drawings or Drawings())
    except Exception as error:
        body = f'<p class="missing">This picture could not be drawn ({html.escape(str(error))}).</p>'
    wide = figure.kind in _WIDE
    return Piece(figure.name, figure.title, figure.caption, figure.kind, body, wide)


def _body(figure: Figure, draw: Drawings) -> str:
    if figure.kind == "table":
        return table_html(figure.data["columns"], figure.data.get("marks"))
    if figure.kind == "volume":
        return volume_html(figure)
    if figure.kind == "gallery" and figure.data.get("scale"):
        return _raster(draw(figure), figure.title, dpi=120, lossy=False)
    if figure.kind == "gallery":
        return gallery_html(figure)
    if figure.kind == "image":
        return _raster(draw(figure), figure.title, dpi=120, lossy=True)
    return _vector(draw(figure), figure)


def volume_html(figure: Figure, *, size: int = 440) -> str:
    """Surface views and central slices as tiles that flow with the page."""
    volume = np.asarray(figure.data["volume"], dtype=np.float32)
    pixel_size = float(figure.data.get("pixel_size") or 1.0)
    tiles = [
        f'<figure><img alt="{html.escape(name)} of the map" src="{picture_uri(picture)}">'
        f"<figcaption>{html.escape(name)}</figcaption></figure>"
        for name, picture in surface_pictures(surface_volume(figure), figure.data.get("level"), size=size)
    ]
    for name, image in central_slices(volume):
        low, high = gray_limits(image)
        gray = (np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.uint8)[::-1]
        width = gray.shape[1] * pixel_size
        tiles.append(
            f'<figure class="slice"><img alt="central {name} slice" src="{picture_uri(gray, lossy=True)}">'
            f"<figcaption>central {name} slice, {width:.0f} Å wide</figcaption></figure>"
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def gallery_html(figure: Figure, *, most: int = 300) -> str:
    """Small images as tiles that flow with the page, each with its own grey scale."""
    images = np.asarray(figure.data["images"], dtype=np.float32)
    labels = figure.data.get("labels")
    n = min(len(images), most)
    columns = int(figure.data.get("columns") or (10 if n > 40 else 8 if n > 12 else 6))
    tiles = []
    for i in range(n):
        low, high = gray_limits(images[i])
        gray = (np.clip((images[i] - low) / (high - low), 0, 1) * 255).astype(np.uint8)[::-1]
        label = html.escape(str(labels[i])) if labels is not None else ""
        caption = f"<figcaption>{label}</figcaption>" if label else ""
        tiles.append(f'<figure><img alt="{label or i + 1}" src="{picture_uri(gray, lossy=True)}">{caption}</figure>')
    left = f'<p class="caption">The first {n} of {len(images)}.</p>' if n < len(images) else ""
    width = max(64, min(210, 1080 // columns - 6))
    return f'<div class="gallery" style="--tile: {width}px">{"".join(tiles)}</div>{left}'


def hero_picture(figure: Figure, *, size: int = 560) -> str:
    """Data URI of one fine view of a map."""
    return picture_uri(surface_pictures(surface_volume(figure), figure.data.get("level"), size=size, n_views=1)[0][1])


def table_html(columns: dict[str, Any], marks: str | None = None) -> str:
    """A table with its titles; answers in the column `marks` are coloured by what they mean."""
    titles = "".join(f"<th>{html.escape(str(c))}</th>" for c in columns)
    coloured = [c == marks for c in columns]
    rows = zip(*columns.values(), strict=False)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(v, mark)}</td>" for v, mark in zip(row, coloured, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Any, mark: bool) -> str:
    text = html.escape(format_value(_scalar(value)))
    return f'<span class="mark {_MARKS.get(text, "")}">{text}</span>' if mark else text


def on_top(piece: Piece) -> Piece:
    """The same figure once more on a page: the names inside its picture are told apart."""
    body = re.sub(r'(\bid="|xlink:href="#|url\(#)', r"\g<1>top_", piece.body)
    return dataclasses.replace(piece, body=body)


def picture_uri(pixels: np.ndarray, *, lossy: bool = False) -> str:
    """Data URI of an 8-bit picture, grey `(h, w)`, RGB or RGBA `(h, w, c)`."""
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels)
    if lossy and pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3):
        picture.save(buffer, "JPEG", quality=88, optimize=True)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    picture.save(buffer, "WEBP", quality=90, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def save_png(figure: Figure, path: Path, draw: Drawings) -> None:
    """Draw a figure into a PNG file; the file appears when it is complete."""
    beside = path.with_name(f".{path.stem}.part.png")
    with report_style():
        draw(figure).savefig(beside, dpi=130, format="png")
    beside.replace(path)


def environment() -> jinja2.Environment:
    """Templates of the package, with escaping on."""
    folder = Path(__file__).parent / "templates"
    loaded = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    loaded.globals["stylesheet"] = (folder / "style.css").read_text(encoding="utf-8")
    return loaded


def _vector(drawn: MplFigure, figure: Figure) -> str:
    buffer = io.StringIO()
    with report_style():
        drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # Names inside one picture must not meet those of another on the same page.
    prefix = re.sub(r"\W", "_", figure.name) + "_" + format(abs(hash((figure.name, figure.title))) % 16**6, "06x") + "_"
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{prefix}", text)
    label = html.escape(f"{figure.title}. {figure.caption}", quote=True)
    return re.sub(r'<svg ([^>]*?)width="[^"]*"', rf'<svg role="img" aria-label="{label}" \1', text, count=1).replace(
        ' height="', ' data-height="', 1
    )


def _raster(drawn: MplFigure, title: str, *, dpi: int, lossy: bool) -> str:
    buffer = io.BytesIO()
    with report_style():
        drawn.savefig(buffer, dpi=dpi, format="png")
    pixels = np.asarray(Image.open(buffer).convert("RGB"))
    return f'<img alt="{html.escape(title, quote=True)}" src="{picture_uri(pixels, lossy=lossy)}">'


def _scalar(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
