"""A place for an application's own values, by names of its choice."""

from __future__ import annotations


class State:
    """Attributes of your own: `state.room = "lobby"`. One that was never set raises AttributeError, which says so.

    Type checkers take every attribute for `object`, so narrow it with `isinstance`.
    """

    def __getattr__(self, name: str) -> object:
        raise AttributeError(f"nothing was set as {name!r} in this client's state; set it in on_connect, for example")

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def __contains__(self, name: str) -> bool:
        return name in self.__dict__

    def __repr__(self) -> str:
        return f"State({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"
