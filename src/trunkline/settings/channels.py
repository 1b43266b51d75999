"""[channels]: who may use which channels, and what is kept of them; an application's rules have the same form. Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from trunkline.settings.types import about

Pattern = Annotated[
    str,
    Meta(
        pattern=r"^(([A-Za-z0-9_~:@=+-]+|\*|\{[A-Za-z0-9_-]+\})\.)*([A-Za-z0-9_~:@=+-]+|\*\*?|\{[A-Za-z0-9_-]+\})$",
        max_length=400,
        extra={
            "allowed": "tokens joined by dots: names of A-Z a-z 0-9 _ ~ : @ = + -, '*' for one token, '{claim}', "
            "and '**' at the end for the rest"
        },
    ),
]
# Not `Annotated[str, Meta(pattern=...)] | tuple[...]`: msgspec 0.22 corrupts memory on a union of text with a pattern
# and a list. `check` looks at the items instead.
Access = str | tuple[str, ...]
Kept = Annotated[int, Meta(ge=0, le=10_000_000)]


class ChannelRule(msgspec.Struct, frozen=True):
    """One entry of [[channels.rules]]; without `publish` only the application publishes."""

    pattern: Annotated[Pattern, about("Channels the rule is for.")]
    subscribe: Annotated[
        Access,
        about(
            'Who may subscribe: "anyone", "authenticated", "nobody", or claims such as "role=admin", any one enough.'
        ),
    ] = "nobody"
    publish: Annotated[Access, about("Which clients may publish, in the same form.")] = "nobody"
    history: Annotated[Kept | None, about("Publications kept; 0: fire and forget.")] = None
    history_age_s: Annotated[Annotated[float, Meta(gt=0)] | None, about("Age up to which they are kept.")] = None


DEFAULT_RULES: tuple[ChannelRule, ...] = (
    ChannelRule("public.**", subscribe="anyone", publish="anyone"),
    ChannelRule("chat.**", subscribe="anyone", publish="anyone"),
    ChannelRule("match.**", subscribe="anyone", publish="anyone"),
    ChannelRule("presence.**", history=0),
    ChannelRule("**"),
)
"""Apply after the operator's own rules. The last one denies every other channel."""


class ChannelsSettings(msgspec.Struct, frozen=True):
    """[channels]: history of all channels, and rules by pattern; the first rule that matches counts."""

    history: Annotated[Kept, about("Publications kept of a channel; 0: fire and forget.")] = 1000
    history_age_s: Annotated[float, about("Age up to which publications are kept.", gt=0)] = 300.0
    rules: Annotated[tuple[ChannelRule, ...], about("Rules before the built-in ones; in the environment as JSON.")] = ()
