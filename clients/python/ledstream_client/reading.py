"""From decoded JSON to the classes of `answers`. Fields that a class does not know are those of a newer server."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache, partial
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ledstream_client.errors import UnexpectedAnswer

T = TypeVar("T")
NAMED = "named"  # in a field's metadata: what it is called on the wire, where Python has other plans for the word
REST = "*"  # so named: texts that no other field of the class knows
Reader = Callable[[Any], Any]


class _Wrong(Exception):
    """path: from the inside to the outside."""

    def __init__(self, why: str, *path: str) -> None:
        self.why, self.path = why, list(path)


def read(form: type[T], data: object, where: str = "answer") -> T:
    """A dataclass from a JSON object. Raises UnexpectedAnswer naming what is missing, or is not what it should be."""
    try:
        found: T = _reader(form)(data)  # type: ignore[arg-type]  # every class can be hashed
    except _Wrong as wrong:
        raise UnexpectedAnswer(f"{'.'.join([where, *reversed(wrong.path)])} {wrong.why}") from None
    return found


@lru_cache(maxsize=256)
def _reader(hint: Any) -> Reader:
    """Made once for each type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (kind,) = [one for one in inner if one is not types.NoneType]
        return partial(_if_any, _reader(kind))
    if origin is tuple:
        return partial(_list, _reader(inner[0]))
    if origin is not None:  # Mapping of texts to something
        return partial(_map, _reader(inner[1]))
    if is_dataclass(hint):
        return _of_class(hint)
    return _as_it_is if hint is Any else partial(_plain, hint)


def _of_class(form: Any) -> Reader:
    hints = get_type_hints(form)
    named = {one.metadata.get(NAMED, one.name): one for one in fields(form)}
    rest = named.pop(REST, None)
    needed = {wire for wire, one in named.items() if one.default is one.default_factory is MISSING}
    readers = {wire: (one.name, _reader(hints[one.name])) for wire, one in named.items()}

    def read_one(data: Any) -> Any:
        given = {}
        for wire, value in _plain(dict, data).items():
            if wire in readers:
                name, reader = readers[wire]
                given[name] = _inside(wire, reader, value)
        if not needed <= data.keys():
            raise _Wrong("is missing", *sorted(needed - data.keys())[:1])
        if rest is not None:
            given[rest.name] = {wire: text for wire, text in data.items() if wire not in readers and type(text) is str}
        return form(**given)

    return read_one


def _inside(where: str, reader: Reader, value: object) -> Any:
    try:
        return reader(value)
    except _Wrong as wrong:
        wrong.path.append(where)
        raise


def _as_it_is(data: object) -> object:
    return data


def _if_any(reader: Reader, data: object) -> Any:
    return None if data is None else reader(data)


def _list(reader: Reader, data: object) -> tuple[Any, ...]:
    return tuple(_each(reader, enumerate(_plain(list, data))))


def _map(reader: Reader, data: object) -> dict[str, Any]:
    items = _plain(dict, data)
    return dict(zip(items, _each(reader, items.items()), strict=True))


def _each(reader: Reader, items: Any) -> Iterator[Any]:
    for where, one in items:
        yield _inside(str(where), reader, one)


def _plain(kind: Any, data: Any) -> Any:
    if type(data) is kind:
        return data
    if kind is float and type(data) is int:
        return kind(data)
    raise _Wrong(f"= {data!r}: should be of type {kind.__name__}")
