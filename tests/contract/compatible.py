"""Whether whoever was written against one OpenAPI document gets along with a server that another one describes.

What is sent may only become more: each request that was good stays good. What is answered may only say more: each field
that was promised is there, and is of a kind that was promised. Fields that come new into answers are let be by clients.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Json = Mapping[str, Any]
METHODS = ("get", "put", "post", "delete", "head", "patch")
LOWEST = ("minimum", "exclusiveMinimum", "minLength", "minItems")
HIGHEST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
ANYTHING: Json = {}


class Schema(NamedTuple):
    """A part of a document."""

    document: Json
    part: Json

    def at(self, part: Any) -> Schema:
        """Another part of it; True is anything."""
        return Schema(self.document, part if isinstance(part, Mapping) else ANYTHING)

    def resolved(self) -> Schema:
        part = self.part
        while "$ref" in part:
            found: Any = self.document
            for name in part["$ref"].removeprefix("#/").split("/"):
                found = found[name]
            part = found
        return self.at(part)

    def kinds(self) -> list[Schema]:
        """What it may be, one by one."""
        whole = self.resolved()
        for name in ("anyOf", "oneOf"):
            if name in whole.part:
                return [kind for one in whole.part[name] for kind in self.at(one).kinds()]
        if isinstance(whole.part.get("type"), list):
            return [self.at({**whole.part, "type": one}) for one in whole.part["type"]]
        return [whole]


@dataclass(frozen=True)
class Direction:
    """What goes one way. Every value of `part` must be one of `whole`: of answers the new in the old, of requests the
    old in the new.
    """

    way: Literal["request", "answer"]

    def differences(self, old: Schema, new: Schema, where: str, above: tuple[int, ...] = ()) -> list[str]:
        """What is no longer so."""
        part, whole = (old, new) if self.way == "request" else (new, old)
        found = []
        for kind in part.kinds():
            if id(kind.part) in above:  # a schema within itself
                continue
            alike = [other for other in whole.kinds() if other.part.get("type") == kind.part.get("type")]
            inside = [self._of_kind(kind, other, where, (*above, id(kind.part))) for other in alike or whole.kinds()]
            found += sorted(inside, key=len)[0]  # of those that it may be, the nearest
        return found

    def _of_kind(self, part: Schema, whole: Schema, where: str, above: tuple[int, ...]) -> list[str]:
        has, may = part.part.get("type"), whole.part.get("type")
        if may is not None and has != may and (has, may) != ("integer", "number"):
            return [f"{where}: {self._told(has or 'anything', may)}"]
        found = [*self._values(part.part, whole.part, where), *self._bounds(part.part, whole.part, where)]
        if "items" in whole.part:
            found += self._nested(part.at(part.part.get("items")), whole.at(whole.part["items"]), f"{where}[]", above)
        if has == "object":
            found += self._fields(part, whole, where, above)
        return found

    def _values(self, part: Json, whole: Json, where: str) -> Iterable[str]:
        if (values := _values(whole)) is not None:
            more = [one for one in _values(part) or [None] if one not in values]
            if more or _values(part) is None:
                yield f"{where}: {self._told(more if _values(part) else 'any value', values)}"
        for name in ("pattern", "format"):
            if name in whole and part.get(name) != whole[name]:
                yield f"{where}: {name} {self._told(part.get(name, 'none'), whole[name])}"

    def _bounds(self, part: Json, whole: Json, where: str) -> Iterable[str]:
        for name in (*LOWEST, *HIGHEST):
            sign = 1 if name in LOWEST else -1
            if name in whole and (name not in part or sign * part[name] < sign * whole[name]):
                yield f"{where}: {name} {self._told(part.get(name, 'none'), whole[name])}"

    def _fields(self, part: Schema, whole: Schema, where: str, above: tuple[int, ...]) -> Iterable[str]:
        has, may = part.part.get("properties", {}), whole.part.get("properties", {})
        old, new = (has, may) if self.way == "request" else (may, has)
        for name in old.keys() - new.keys():
            yield f"{where}.{name}: removed"
        for name in (
            set(whole.part.get("required", ())) - set(part.part.get("required", ())) - (old.keys() - new.keys())
        ):
            yield f"{where}.{name}: " + ("required now" if self.way == "request" else "may be missing now")
        for name in has.keys() & may.keys():
            yield from self._nested(part.at(has[name]), whole.at(may[name]), f"{where}.{name}", above)
        others, allowed = (one.part.get("additionalProperties", True) for one in (part, whole))
        if others is not False and isinstance(allowed, Mapping):
            yield from self._nested(part.at(others), whole.at(allowed), f"{where}.*", above)
        elif self.way == "request" and others is not False and allowed is False:
            yield f"{where}: unknown fields are refused now"

    def _nested(self, part: Schema, whole: Schema, where: str, above: tuple[int, ...]) -> list[str]:
        old, new = (part, whole) if self.way == "request" else (whole, part)
        return self.differences(old, new, where, above)

    def _told(self, part: object, whole: object) -> str:
        old, new = (part, whole) if self.way == "request" else (whole, part)
        return f"was {old}, is {new}"


REQUEST, ANSWER = Direction("request"), Direction("answer")


def breaks(old: Json, new: Json, *, private: Sequence[str] = ()) -> list[str]:
    """What would no longer work, in sentences; none where it all would. private: beginnings of paths not looked at."""
    found = []
    for path, operations in old["paths"].items():
        if path.startswith(tuple(private)):
            continue
        for method in METHODS:
            if method not in operations:
                continue
            where, now = f"{method.upper()} {path}", new["paths"].get(path, {}).get(method)
            if now is None:
                found.append(f"{where}: removed")
                continue
            before, after = Schema(old, operations[method]), Schema(new, now)
            found += [
                *_parameters(before, after, where),
                *_bodies(before, after, where),
                *_answers(before, after, where),
            ]
    return sorted(found)


def _parameters(old: Schema, new: Schema, where: str) -> Iterable[str]:
    had, has = ({(one["in"], one["name"]): one for one in of.part.get("parameters", ())} for of in (old, new))
    for key in had.keys() - has.keys():
        yield f"{where} ?{key[1]}: removed"
    for key, one in has.items():
        was = had.get(key)
        if one.get("required") and not (was and was.get("required")):
            yield f"{where} ?{key[1]}: required now"
        if was:
            yield from REQUEST.differences(old.at(was["schema"]), new.at(one["schema"]), f"{where} ?{key[1]}")


def _bodies(old: Schema, new: Schema, where: str) -> Iterable[str]:
    had, has = (of.part.get("requestBody") for of in (old, new))
    if has and has.get("required") and not (had and had.get("required")):
        yield f"{where} body: required now"
    if had:
        content = has["content"] if has else {}
        yield from _contents(REQUEST, (old, had["content"]), (new, content), f"{where} body")


def _answers(old: Schema, new: Schema, where: str) -> Iterable[str]:
    for status, was in old.part["responses"].items():
        now = new.part["responses"].get(status)
        if now is None:
            yield f"{where} {status}: removed"
        else:
            sides = (old, was.get("content", {})), (new, now.get("content", {}))
            yield from _contents(ANSWER, *sides, f"{where} {status}")


def _contents(way: Direction, old: tuple[Schema, Json], new: tuple[Schema, Json], where: str) -> Iterable[str]:
    for form, was in old[1].items():
        if form not in new[1]:
            yield f"{where}: {form} removed"
        else:
            now = new[1][form]
            yield from way.differences(old[0].at(was.get("schema")), new[0].at(now.get("schema")), where)


def _values(schema: Json) -> Sequence[Any] | None:
    """Where only some are possible."""
    if "const" in schema:
        return [schema["const"]]
    values: Sequence[Any] | None = schema.get("enum")
    return values
