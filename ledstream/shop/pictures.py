"""Pictures of products: a shape for each category, in the product's colour, with its pattern. Made when asked for."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from string import Template

from ledstream.shop.products import Product

_SHAPE = re.compile(r"<(\w+)>\n(.*?)</\1>", re.DOTALL)
_BODY = re.compile(r'<[^>]*fill="\$main"[^>]*/>')
_PATTERNS = (
    "",
    '<pattern id="skin" width="26" height="26" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="10" height="26" fill="$light" opacity=".5"/></pattern>',
    '<pattern id="skin" width="26" height="26" patternUnits="userSpaceOnUse">'
    '<circle cx="7" cy="7" r="4.5" fill="$light" opacity=".7"/>'
    '<circle cx="20" cy="20" r="4.5" fill="$light" opacity=".7"/>'
    "</pattern>",
    '<pattern id="skin" width="240" height="34" patternUnits="userSpaceOnUse">'
    '<rect width="240" height="9" fill="$dark" opacity=".38"/>'
    '<rect y="14" width="240" height="4" fill="$light" opacity=".6"/>'
    "</pattern>",
    '<pattern id="skin" width="36" height="22" patternUnits="userSpaceOnUse">'
    '<path d="M0 16l9-9 9 9 9-9 9 9" fill="none" stroke="$light" stroke-width="4.5" opacity=".6"/></pattern>',
)
_PICTURE = Template("""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 240 240">
<defs><linearGradient id="body" x1="0" y1="0" x2="1" y2="1">\
<stop offset="0" stop-color="$high"/><stop offset="1" stop-color="$low"/></linearGradient>$pattern</defs>
<circle cx="120" cy="120" r="104" fill="$glow" opacity=".16"/>
<ellipse cx="120" cy="207" rx="82" ry="9" fill="#000" opacity=".13"/>
$shape</svg>
""")


def picture_of(product: Product) -> str:
    """An SVG document that needs nothing else."""
    hue, pattern = product.hue, _PATTERNS[product.skin % len(_PATTERNS)]
    tones = {
        "main": "url(#body)",
        "high": f"oklch(.77 .125 {hue})",
        "low": f"oklch(.64 .14 {hue})",
        "dark": f"oklch(.47 .1 {hue})",
        "light": f"oklch(.91 .055 {hue})",
        "glow": f"oklch(.72 .14 {hue})",
    }
    shape = _shapes()[product.category.shape]
    if pattern:
        shape = _BODY.sub(lambda body: body[0] + body[0].replace("$main", "url(#skin)"), shape)
    inside = {"shape": Template(shape).substitute(tones), "pattern": Template(pattern).substitute(tones)}
    return _PICTURE.substitute(tones | inside)


@cache
def _shapes() -> dict[str, str]:
    text = Path(__file__).with_name("shapes.xml").read_text(encoding="utf-8")
    return {found[1]: found[2] for found in _SHAPE.finditer(text.removeprefix("<shapes>\n"))}
