"""What the demo's shop sells: the simulated items, with names, categories and prices made from their numbers.

A ring of the simulator is a category, and the place on the ring is the colour: what is alike to shoppers looks alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple
from zlib import crc32

from stream.simulator import Placed


class Category(NamedTuple):
    """shape: of the picture. price: of a usual one. about: a sentence on each of its products."""

    name: str
    department: str
    noun: str
    shape: str
    price: float
    about: str

    @property
    def slug(self) -> str:
        """In addresses."""
        return self.name.lower().replace(" ", "-")


class Product(NamedTuple):
    """hue: degrees on OKLCH's colour circle. skin: number of the pattern on it. price: euros."""

    item_id: str
    title: str
    category: Category
    colour: str
    hue: int
    skin: int
    price: float


CATEGORIES = (
    Category("Mugs", "Kitchen", "mug", "mug", 14, "Stoneware, glazed by hand, and large enough for a second thought."),
    Category("Lamps", "Living", "lamp", "lamp", 64, "Linen on an oiled foot. It makes an evening out of a corner."),
    Category("Sneakers", "Wear", "sneaker", "sneaker", 79, "Light, soft inside, and resoled by us for half the price."),
    Category("Plants", "Garden", "plant", "plant", 23, "Grown slowly, potted twice. It forgives a week without you."),
    Category("Headphones", "Studio", "headphones", "headphones", 119, "Warm sound, soft pads, every part replaceable."),
    Category("Teapots", "Kitchen", "teapot", "teapot", 38, "Pours without a drop and keeps an hour of heat."),
    Category("Chairs", "Living", "chair", "chair", 139, "Bent ash and felted wool, made for long dinners."),
    Category("Hats", "Wear", "hat", "hat", 45, "Felt that keeps its shape in rain and in suitcases."),
    Category("Lanterns", "Garden", "lantern", "lantern", 32, "For a candle, a porch and two voices."),
    Category("Notebooks", "Studio", "notebook", "notebook", 12, "Thread-bound, opens flat, takes ink on both sides."),
    Category("Bowls", "Kitchen", "bowl", "bowl", 21, "For fruit, keys or soup: thrown on the wheel, one at a time."),
    Category("Vases", "Living", "vase", "vase", 29, "A narrow neck, so that three stems are already a bunch."),
    Category("Shirts", "Wear", "shirt", "shirt", 35, "Heavy cotton, cut straight, dyed in small lots."),
    Category("Watering cans", "Garden", "watering can", "can", 27, "Balanced when full, and gentle on seedlings."),
    Category("Cameras", "Studio", "camera", "camera", 189, "One lens, real dials, and nothing that beeps."),
    Category("Bottles", "Kitchen", "bottle", "bottle", 24, "Steel, twice walled: cold for a day, hot for a night."),
    Category("Cushions", "Living", "cushion", "cushion", 34, "Woven covers that wash, feathers that stay in."),
    Category("Bags", "Wear", "bag", "bag", 56, "Waxed canvas with a pocket for what you always look for."),
    Category("Parasols", "Garden", "parasol", "parasol", 89, "Shade for four, folded by one."),
    Category("Backpacks", "Studio", "backpack", "backpack", 84, "Sits close, opens wide, and dries overnight."),
    Category("Jars", "Kitchen", "jar", "jar", 17, "A lid that seals and a label that wipes clean."),
    Category("Clocks", "Living", "clock", "clock", 48, "A quiet movement: you hear the day, not the seconds."),
    Category("Socks", "Wear", "socks", "socks", 11, "Merino with a heel that finds yours."),
    Category("Kites", "Garden", "kite", "kite", 31, "Flies in a breath of wind and packs into its own tail."),
    Category("Ukuleles", "Studio", "ukulele", "ukulele", 96, "Tuned by hand, and in tune again by Sunday."),
)
COLOURS = (
    *("rose", "poppy", "coral", "terracotta", "amber", "mustard", "moss", "fern", "meadow"),
    *("jade", "lagoon", "ocean", "sky", "cornflower", "iris", "violet", "orchid", "raspberry"),
)
NAMES = (
    *("Aino", "Bram", "Cleo", "Dara", "Elin", "Falk", "Gwen", "Hugo", "Iris", "Jonas", "Kaja", "Leif", "Mila"),
    *("Nils", "Olga", "Pelle", "Quin", "Runa", "Sven", "Tove", "Ulla", "Vera", "Wim", "Xenia", "Yara", "Zeno"),
    *("Alma", "Bela", "Ciro", "Dido", "Emil", "Fenja", "Gil", "Heidi", "Ivo", "Juno", "Kolja"),
)
SKINS = 5


def product_of(placed: Placed) -> Product:
    """The same for the same item, always. Its hue and its name come from its place, all else from its number."""
    category = CATEGORIES[placed.taste % len(CATEGORIES)]
    hue = 360 * placed.place // placed.places
    colour = COLOURS[hue * len(COLOURS) // 360]
    name = NAMES[(_drawn(placed.item_id[:-3], "name") + 11 * placed.place) % len(NAMES)]  # another one beside it
    price = category.price * (0.7 + _drawn(placed.item_id, "price") % 91 / 100)
    skin = _drawn(placed.item_id, "skin") % SKINS
    title = f"{name} {category.noun}, {colour}"
    return Product(placed.item_id, title, category, colour, hue, skin, round(price) - 0.1)


class Assortment:
    """What is on sale, and what was. Used inside one event loop."""

    def __init__(self) -> None:
        self._known: dict[str, Product] = {}
        self._on_sale: dict[str, Product] = {}

    def change(self, placed: Iterable[Placed]) -> tuple[list[Product], list[Product]]:
        """On sale is this and nothing else from now on; what is new, and what is gone."""
        now = {one.item_id: self._known.get(one.item_id) or product_of(one) for one in placed}
        new = [product for item, product in now.items() if item not in self._on_sale]
        gone = [product for item, product in self._on_sale.items() if item not in now]
        self._on_sale = now
        self._known |= now
        return new, gone

    def find(self, item_id: str) -> Product | None:
        """Any that was ever on sale."""
        return self._known.get(item_id)

    def is_on_sale(self, item_id: str) -> bool:
        return item_id in self._on_sale

    def of_category(self, category: Category) -> Sequence[Product]:
        """On sale, by colour."""
        return sorted((one for one in self._on_sale.values() if one.category is category), key=lambda one: one.hue)


def _drawn(item_id: str, what: str) -> int:
    return crc32(f"{what} of {item_id}".encode())
