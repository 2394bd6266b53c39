"""A page to judge pairs by eye: one HTML file with everything in it, which loads nothing and opens offline."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from bench.birthday.pairs import Chosen
from bench.birthday.record import ANSWERS, Key
from bench.errors import UserError

__all__ = ["LARGEST", "make_page"]

LARGEST = 5_000_000
"""Bytes of a page at most."""

_WIDEST = 320  # pixels; no picture is shown larger

# The first with which the page is small enough is taken, for all pictures: one encoding tells nothing about a pair.
_ENCODINGS: Sequence[tuple[str, Mapping[str, Any]]] = (
    ("png", {"optimize": True}),
    ("webp", {"lossless": True, "quality": 60}),
    ("webp", {"quality": 80}),
)


def make_page(chosen: Chosen, key: Key, levels: int, name: str) -> bytes:
    """Return the page as UTF-8.

    It says nothing about the kind of a pair: pairs are named by the hashes of the key, and every picture that is shown
    twice is stored once. The data lie in it as JSON in which no character ends a script, and reach the document as text
    alone. So ``string.Template`` is enough, and no template language is needed.

    Arguments:
        levels: Of the pictures.
        name: Of the page's file without its suffix; the answers' file gets it too.

    Raises:
        UserError: The page would be too large.
    """
    page = b""
    for kind, settings in _ENCODINGS:
        page = _assembled(chosen, key, levels, name, kind, settings)
        if len(page) <= LARGEST:
            return page
    candidates = sum(shown.kind == "candidate" for shown in key.pairs)
    raise UserError(
        f"birthday page: {len(key.pairs)} pairs of these pictures take {len(page) / 1e6:.1f} MB, and at most "
        f"{LARGEST / 1e6:.1f} MB are written; show fewer, as in pairs={max(1, candidates // 2)}"
    )


def _assembled(chosen: Chosen, key: Key, levels: int, name: str, kind: str, settings: Mapping[str, Any]) -> bytes:
    images: dict[str, int] = {}
    both = (_encoded(x, levels, kind, settings) for x in (chosen.pictures, chosen.neighbours))
    rows = [
        [shown.hash, *(images.setdefault(uri, len(images)) for uri in (*pictures, *neighbours))]
        for shown, pictures, neighbours in zip(key.pairs, *both, strict=True)
    ]
    height, width = chosen.pictures.shape[-2:]
    content = {
        "format": ANSWERS, "page": key.page, "name": name, "model": key.model, "dataset": key.dataset,
        "samples": key.samples, "width": width, "height": height, "pairs": rows, "images": list(images),
    }  # fmt: skip
    folder = files("bench.birthday")
    text = {part: (folder / f"page.{part}").read_text(encoding="utf-8") for part in ("html", "css", "js")}
    title = html.escape(f"Same or different? {key.model} on {key.dataset}")
    page = Template(text["html"]).substitute(title=title, css=text["css"], js=text["js"], data=_inert(content))
    return page.encode()


def _inert(content: Any) -> str:
    """Return JSON that can stand in a script element: no text in it ends the element or opens a comment."""
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _encoded(x: Tensor, levels: int, kind: str, settings: Mapping[str, Any]) -> list[list[str]]:
    """Return the ``data:`` URIs of pictures ``(P, 2, C, H, W)``, black to white from 0 to the highest level."""
    scaled = np.round(x.numpy() * (255 / (levels - 1))).astype(np.uint8).transpose(0, 1, 3, 4, 2)
    return [[_uri(picture, kind, settings) for picture in pair] for pair in scaled]


def _uri(picture: np.ndarray[Any, Any], kind: str, settings: Mapping[str, Any]) -> str:
    file = io.BytesIO()
    image = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
    image.thumbnail((_WIDEST, _WIDEST))  # only larger ones change
    image.save(file, format=kind.upper(), **settings)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
