"""The shop's pages as HTML. What visitors do on them is told by `data-ledstream-` attributes alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from pathlib import Path
from string import Template

from ledstream.shop.products import CATEGORIES, Category, Product

DEPARTMENTS = tuple(dict.fromkeys(category.department for category in CATEGORIES))
TIPS = (
    ("Turn recommendations on.", "Until then nothing is sent: look at the network log."),
    ("Open or like a few things.", "The list “For you” follows within a second."),
    ("Ask “Why these?”", "Each score is a sum over what you did, and adds up."),
)
HEART = (
    '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M12 20.5S3.5 15.6 3.5 9.3A4.6 4.6 0 0 1 12 6.8a4.6 4.6 0 0 1 '
    '8.5 2.5c0 6.3-8.5 11.2-8.5 11.2z"/></svg>'
)


class Pages:
    """server: address of the recommender, as browsers reach it."""

    def __init__(self, server: str) -> None:
        self._server = server

    def home(self, popular: Sequence[Product], shown: dict[Category, Product]) -> str:
        """shown: for each category a product whose picture stands for it."""
        tips = "".join(f"<li><b>{escape(what)}</b> {escape(why)}</li>" for what, why in TIPS)
        main = (
            '<section class="hero"><h1>Useful things in every colour</h1>'
            f'<ol class="tips">{tips}</ol></section>'
            f'<section aria-labelledby="popular"><h2 id="popular">Popular right now</h2>{_cards(popular)}</section>'
            '<section aria-labelledby="all"><h2 id="all">All categories</h2><ul class="tiles">'
            + "".join(_tile(category, product) for category, product in shown.items())
            + "</ul></section>"
        )
        return self._page("Useful things in every colour", main)

    def listing(self, title: str, sections: Sequence[tuple[str, Sequence[Product]]], query: str = "") -> str:
        """sections: heading ("": none) and products of each."""
        parts = [f"<h1>{escape(title)}</h1>"]
        for heading, products in sections:
            parts.append(f"<h2>{heading}</h2>" if heading else "")
            parts.append(_cards(products) if products else '<p class="none">Nothing of that name.</p>')
        return self._page(title, "".join(parts), query=query)

    def product(self, product: Product, similar: Sequence[Product], *, is_on_sale: bool) -> str:
        """similar: what others who liked this one liked."""
        item, category = escape(product.item_id), product.category
        buy = (
            f'<button class="primary buy" data-ledstream-item="{item}" data-ledstream-event="sale" '
            f'data-ledstream-value="{product.price:.2f}">Buy for {_price(product)}</button>'
            if is_on_sale
            else '<p class="gone">Sold out, and not made any more.</p>'
        )
        main = (
            f'<nav class="crumbs" aria-label="Where this is"><a href="/departments/{category.department.lower()}">'
            f'{category.department}</a> / <a href="/categories/{category.slug}">{category.name}</a></nav>'
            '<article class="product"><div class="picture">'
            f'<img src="/pictures/{item}.svg" alt="" width="480" height="480"></div>'
            f'<div class="told"><h1 data-ledstream-item="{item}" data-ledstream-event="view">'
            f'{escape(product.title)}</h1><p class="price">{_price(product)}</p><p>{escape(category.about)}</p>'
            f'<p class="actions">{buy}{_like(product, "large")}</p><p id="thanks" class="thanks" role="status"></p>'
            f'<p class="fine">Item <code>{item}</code></p></div></article>'
        )
        if similar:
            main += f'<section aria-labelledby="similar"><h2 id="similar">Goes with it</h2>{_cards(similar)}</section>'
        return self._page(product.title, main, exclude=item)

    def missing(self) -> str:
        """Of what the shop never had."""
        return self._page("Not here", '<h1>Not here</h1><p class="none">This shop has no such page.</p>')

    def _page(self, title: str, main: str, *, exclude: str = "", query: str = "") -> str:
        links = "".join(f'<a href="/departments/{name.lower()}">{name}</a>' for name in DEPARTMENTS)
        return _layout().substitute(
            title=escape(title),
            server=escape(self._server),
            departments=links,
            main=main,
            exclude=exclude,
            query=escape(query),
            heart=HEART,
        )


def _cards(products: Iterable[Product]) -> str:
    return f'<ul class="cards">{"".join(map(_card, products))}</ul>'


def _card(product: Product) -> str:
    item = escape(product.item_id)
    return (
        f'<li class="card" data-ledstream-item="{item}"><a href="/items/{item}">'
        f'<img src="/pictures/{item}.svg" alt="" width="240" height="240" loading="lazy">'
        f'<span class="title">{escape(product.title)}</span></a>'
        f'<span class="price">{_price(product)}</span>{_like(product)}</li>'
    )


def _tile(category: Category, product: Product) -> str:
    return (
        f'<li><a href="/categories/{category.slug}"><img src="/pictures/{escape(product.item_id)}.svg" alt="" '
        f'width="120" height="120" loading="lazy">{escape(category.name)}</a></li>'
    )


def _like(product: Product, size: str = "") -> str:
    item, title = escape(product.item_id), escape(product.title)
    return (
        f'<button class="like {size}" data-ledstream-item="{item}" data-ledstream-event="click" aria-pressed="false" '
        f'aria-label="Like {title}">{HEART}</button>'
    )


def _price(product: Product) -> str:
    return f"€{product.price:.2f}"


@cache
def _layout() -> Template:
    return Template(Path(__file__).with_name("layout.html").read_text(encoding="utf-8"))
