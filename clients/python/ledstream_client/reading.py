"""From decoded JSON to the classes of `answers`. Fields that a class does not know are those of a newer server."""

from __future__ import annotations

import types
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import lru_cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ledstream_client.errors import UnexpectedAnswer

T = TypeVar("T")
REST = "*"  # so named: texts that no other field of the class knows
NAMED = "named"  # in a field's metadata: what it is called on the wire, where Python has other plans for the word


def read(form: type[T], data: object, where: str = "answer") -> T:
    """A dataclass from a JSON object. Raises UnexpectedAnswer naming what is missing, or is not what it should be."""
    found, given = _of(dict, data, where), {}
    for name, wire, hint, is_needed in _shape(form):  # type: ignore[arg-type]  # every class can be hashed
        if wire in found:
            given[name] = _value(hint, found[wire], f"{where}.{wire}")
        elif wire == REST:
            known = {other for _, other, _, _ in _shape(form)}  # type: ignore[arg-type]
            given[name] = {key: text for key, text in found.items() if key not in known and isinstance(text, str)}
        elif is_needed:
            raise UnexpectedAnswer(f"{where}.{wire} is missing")
    return form(**given)


@lru_cache(maxsize=64)
def _shape(form: Any) -> list[tuple[str, str, Any, bool]]:
    """Of each field: its name, the one on the wire, its type, and whether it must be there."""
    if not is_dataclass(form):
        raise TypeError(f"{form.__name__} is no dataclass")
    hints = get_type_hints(form)
    return [(f.name, f.metadata.get(NAMED, f.name), hints[f.name], _is_needed(f)) for f in fields(form)]


def _is_needed(found: Field[Any]) -> bool:
    return found.default is MISSING and found.default_factory is MISSING


def _value(hint: Any, data: object, where: str) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (kind,) = [one for one in inner if one is not types.NoneType]
        return None if data is None else _value(kind, data, where)
    if origin is tuple:
        listed = _of(list, data, where)
        return tuple(_value(inner[0], one, f"{where}.{place}") for place, one in enumerate(listed))
    if origin is not None:  # Mapping of texts to something
        return {name: _value(inner[1], one, f"{where}.{name}") for name, one in _of(dict, data, where).items()}
    if is_dataclass(hint) and isinstance(hint, type):
        return read(hint, data, where)
    if hint is float and type(data) is int:
        return float(data)
    return data if hint is Any else _of(hint, data, where)


def _of(kind: type[T], data: object, where: str) -> T:
    if type(data) is not kind:
        raise UnexpectedAnswer(f"{where} = {data!r}: should be of type {kind.__name__}")
    return data
