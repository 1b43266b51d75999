"""One field of a section: what it takes, as text, and how a raw value of a source becomes its value. Pure.

Nothing here knows a single setting: all comes from the declared type, `Annotated[..., Meta(...)]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

from trunkline.settings import quantities
from trunkline.settings.secret import Secret, mask_url


class Field(NamedTuple):
    """A field of a struct; the ending of its name (`_ms`, `_s`, `_bytes`) is the unit of a bare number."""

    name: str
    declared: Any

    @classmethod
    def of(cls, struct: type[msgspec.Struct], name: str) -> Field:
        """The field of that name."""
        return next(cls(name, field.type) for field in msgspec.structs.fields(struct) if field.name == name)

    @property
    def help(self) -> str:
        """The one line of help that stands at the field (`Meta(description=...)`)."""
        info = inspect.type_info(self.declared)
        if isinstance(info, inspect.Metadata) and info.extra_json_schema:
            return str(info.extra_json_schema.get("description", ""))
        return ""

    @property
    def is_list(self) -> bool:
        """Whether it takes a list."""
        return any(isinstance(part, inspect.VarTupleType) for part in self._parts())

    @property
    def item(self) -> type[msgspec.Struct] | None:
        """The struct of each item when it is a list of tables."""
        for part in self._parts():
            if isinstance(part, inspect.VarTupleType):
                for item in _alternatives(part.item_type):
                    if isinstance(item, inspect.StructType):
                        return item.cls
        return None

    @property
    def secret(self) -> bool:
        """Whether it takes a secret, or tables of which a field does."""
        fields = msgspec.structs.fields(self.item) if self.item is not None else ()
        return any(isinstance(part, inspect.CustomType) and part.cls is Secret for part in self._parts()) or any(
            Field(field.name, field.type).secret for field in fields
        )

    @property
    def allowed(self) -> str:
        """What it takes, as text."""
        info = inspect.type_info(self.declared)
        text = _declared_text(info) or " or ".join(_text_of(part) for part in _alternatives(info))
        unit = quantities.unit_of(self.name)
        return f"{text} ({unit.example})" if unit else text

    def shown(self, raw: object) -> str | None:
        """A value as an error may quote it: None for a secret or tables that may hold one, else as `shown`."""
        return None if self.secret else shown(raw)

    def convert(self, raw: object, *, textual: bool) -> object:
        """Turn one raw value into what the field declares.

        Args:
            raw: the value as the source has it.
            textual: whether the source knows only text (the environment), so that numbers, booleans and lists are
                read from it.

        Raises:
            ValueError: the value does not fit, as TypeError; the message is for developers, `allowed` is for users.
        """
        if isinstance(raw, str):
            if not self.is_list:
                raw = self._read(raw)
            elif textual and raw.lstrip().startswith("["):
                raw, textual = msgspec.json.decode(raw), False
            elif textual:
                raw = [item for item in (piece.strip() for piece in raw.split(",")) if item]
        return msgspec.convert(raw, self.declared, strict=not textual, dec_hook=_decode_custom)

    def _read(self, raw: str) -> object:
        """A text with a unit as a number; a declared literal as it is spelt there; else the text itself."""
        parts = list(self._parts())
        unit = quantities.unit_of(self.name)
        amount = unit.read(raw) if unit else None
        if amount is not None:
            whole = any(isinstance(part, inspect.IntType) for part in parts)
            return round(amount) if whole and amount >= 1 else amount
        for part in parts:
            if isinstance(part, inspect.LiteralType):
                for value in part.values:
                    if isinstance(value, str) and value.lower() == raw.strip().lower():
                        return value
        return raw

    def _parts(self) -> Iterator[inspect.Type]:
        return _alternatives(inspect.type_info(self.declared))


def shown(raw: object) -> str:
    """A value as an error may quote it: URLs masked, long text cut."""
    text = mask_url(raw if isinstance(raw, str) else repr(raw))
    return text if len(text) <= 200 else text[:197] + "..."


def _decode_custom(kind: type, raw: object) -> object:
    if not isinstance(raw, str):
        raise TypeError("text is needed")
    if kind is Secret:
        return Secret(raw)
    if kind is Path:
        try:
            return Path(raw).expanduser()
        except RuntimeError as error:  # "~" of a user without a home
            raise ValueError(str(error)) from None
    raise NotImplementedError(kind)


def _alternatives(info: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(info, inspect.Metadata):
        yield from _alternatives(info.type)
    elif isinstance(info, inspect.UnionType):
        for kind in info.types:
            yield from _alternatives(kind)
    elif not isinstance(info, inspect.NoneType):
        yield info


def _declared_text(info: inspect.Type) -> str:
    """The text at the type itself (`Meta(extra={"allowed": ...})`); empty for none."""
    if isinstance(info, inspect.Metadata):
        return str((info.extra or {}).get("allowed", "")) or _declared_text(info.type)
    if isinstance(info, inspect.UnionType):
        return next((text for text in map(_declared_text, info.types) if text), "")
    return ""


def _text_of(info: inspect.Type) -> str:
    declared = _declared_text(info)
    if declared:
        return declared
    match info:
        case inspect.Metadata():
            return _text_of(info.type)
        case inspect.IntType():
            return "a whole number" + _range(info.ge, info.gt, info.le)
        case inspect.FloatType():
            return "a number" + _range(info.ge, info.gt, info.le)
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType():
            return "one of " + ", ".join(str(value) for value in info.values)
        case inspect.VarTupleType():
            return f"a list, each {_text_of(info.item_type)}"
        case inspect.StrType(max_length=int(most)):
            return f"text of {info.min_length or 0} to {most:,} characters"
        case inspect.CustomType():
            return "a path" if info.cls is Path else "text"
        case inspect.StructType():
            return "a table with " + ", ".join(field.name for field in info.fields)
        case _:
            return "text"


def _range(ge: float | None, gt: float | None, le: float | None) -> str:
    low = "" if ge is None else f"{ge:,}"
    if gt is not None:
        return f" above {gt:,}" + ("" if le is None else f" up to {le:,}")
    if low and le is not None:
        return f" from {low} to {le:,}"
    if low:
        return f" of at least {low}"
    return "" if le is None else f" up to {le:,}"
