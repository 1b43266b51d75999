"""[admin]: the admin port of a node, and the tokens that admin ports of nodes and balancers take. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, get_args

import msgspec

from trunkline.settings.secret import Secret
from trunkline.settings.types import Label, Port, about

Scope = Literal["read", "publish", "operate"]
"""What a token may do: look, publish, or change what nodes and balancers do (drain, disconnect, move, weights)."""

SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

SHORTEST_TOKEN: Final = 16
"""Characters that a token has at least."""


class ScopedToken(msgspec.Struct, frozen=True):
    """One entry of [[admin.tokens]]: who has the token, and what it may do."""

    name: Annotated[Label, about("Who has it: the name in the log and in refusals.")]
    scopes: Annotated[tuple[Scope, ...], about("What it may do; one scope does not include another.")]
    file: Annotated[Path | None, about("File with the token, or with two, one a line, while it is being changed.")] = (
        None
    )
    token: Annotated[Secret | None, about("The token itself, at least 16 characters; a file keeps it safer.")] = None


class AdminSettings(msgspec.Struct, frozen=True):
    """[admin]: the admin port of a node; its tokens count at the balancer's admin port too."""

    port: Annotated[Port | None, about("Admin port; by default the data port + 1, 0 switches it off.")] = None
    host: Annotated[str, about("Address the admin port listens on.")] = "127.0.0.1"
    token: Annotated[Secret | None, about("Token that may do everything; by default made at start.")] = None
    token_file: Annotated[
        Path | None, about("File with that token, or with two, one a line, while it is being changed.")
    ] = None
    tokens: Annotated[
        tuple[ScopedToken, ...], about("Further tokens, each with its scopes; in the environment as JSON.")
    ] = ()
