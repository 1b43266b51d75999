"""A new container as it is made from a present one. Pure.

Rules:

- What the present one has beside its image is kept: environment, command, mounts, limits, networks, health check,
  labels. What it has from its image is not, for it comes from the new image.
- What says who it is becomes the new colour's: its name, host name, aliases and the service of Compose, where the old
  colour is a word of them, such as `websocket-blue`; `trunkline.colour`, and the settings server.colour, server.name,
  server.version and server.advertise in environment and command.
- Fixed addresses in its networks are not kept: two containers cannot have one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, TypeVar

import msgspec

from trunkline.deploy.runtimes.docker.containers import (
    COLOUR,
    COMPOSE_IMAGE,
    DEPLOY,
    NUMBER,
    REPLACES,
    SERVICE,
    Attachment,
    Config,
    Container,
    Endpoints,
    Image,
    NewContainer,
)

_NUMBERED: Final = re.compile(r"(.+?)([-_])(\d{1,6})")
_NAME_CHARS: Final = 63
"""What `server.name` may have."""

Value = TypeVar("Value")


class Name(NamedTuple):
    """Of a new container, and its number among those of its colour."""

    text: str
    number: int


class New(NamedTuple):
    """What is to be different.

    Attributes:
        image: by the name under which it is shown.
        image_id: of that image.
        version: that its node reports, empty for what the image says.
        deploy: id of the deploy that makes it.
    """

    name: Name
    colour: str
    image: str
    image_id: str
    version: str
    deploy: str


class Planned(NamedTuple):
    """A container that is to be created, and then attached to further networks."""

    name: str
    body: NewContainer
    further: Mapping[str, Attachment]


def names(model: Container, colour: str, taken: frozenset[str]) -> Iterator[Name]:
    """Names for new containers, without end, none of them `taken`."""
    called = model.called
    match = _NUMBERED.fullmatch(called)
    stem, separator = (match[1], match[2]) if match is not None else (called, "-")
    if model.colour != colour:
        renamed = recoloured(stem, model.colour, colour)
        stem = renamed if renamed != stem else f"{stem}{separator}{colour}"
    number = 0
    while True:
        number += 1
        text = stem if number == 1 and match is None else f"{stem}{separator}{number}"
        if text not in taken:
            yield Name(text, number)


def like(model: Container, image: Image | None, new: New) -> Planned:
    """A container like `model`, whose image is `image`, None when the daemon does not have it any more."""
    old, called = model.colour, new.name.text
    config = _own(model.config, image.config if image is not None and image.config is not None else Config())
    attached, mode = attachments(model, called, new.colour), model.host.network_mode
    first = mode if mode in attached else next(iter(attached), "")
    body = NewContainer(
        **{
            **msgspec.structs.asdict(config),
            "image": new.image,
            "env": _environment(config.env or (), old, new),
            "cmd": _command(config.cmd, new),
            "entrypoint": _command(config.entrypoint, new),
            "labels": _labels(config.labels or {}, old, new),
            "hostname": _hostname(model, new),
        },
        host_config=_host_config(model.host_config),
        networking_config=Endpoints({first: attached.pop(first)} if first else {}),
    )
    return Planned(called, body, attached)


def attachments(model: Container, name: str, colour: str) -> dict[str, Attachment]:
    """The networks of a container called `name` that is like `model`."""
    if model.host.network_mode in ("host", "none"):
        return {}
    return {
        network: _attachment(model, attachment or Attachment(), name, colour)
        for network, attachment in (model.network_settings.networks or {}).items()
    }


def recoloured(text: str, old: str, new: str) -> str:
    """`text` with the new colour wherever the old one is a word of it."""
    if not old:
        return text
    return re.sub(rf"(?<![A-Za-z0-9]){re.escape(old)}(?![A-Za-z0-9])", lambda _: new, text)


def _host_config(given: msgspec.Raw) -> msgspec.Raw:
    """It stays when it ends, unlike one of `docker run --rm`: what it wrote last is in the verdict."""
    found = msgspec.json.decode(given, type=dict[str, msgspec.Raw])
    return msgspec.Raw(msgspec.json.encode({**found, "AutoRemove": False}))


def _own(config: Config, image: Config) -> Config:
    """What a container has that its image does not say."""
    entrypoint = None if config.entrypoint == image.entrypoint else config.entrypoint
    inherited = set(image.env or ())
    return msgspec.structs.replace(
        config,
        env=tuple(each for each in config.env or () if each not in inherited),
        entrypoint=entrypoint,
        # With an entry point of its own a container gets no command from its image.
        cmd=None if entrypoint is None and config.cmd == image.cmd else config.cmd,
        working_dir="" if config.working_dir == image.working_dir else config.working_dir,
        user="" if config.user == image.user else config.user,
        healthcheck=None if config.healthcheck == image.healthcheck else config.healthcheck,
        stop_signal=None if config.stop_signal == image.stop_signal else config.stop_signal,
        shell=None if config.shell == image.shell else config.shell,
        labels=_beside(config.labels, image.labels),
        exposed_ports=_beside(config.exposed_ports, image.exposed_ports),
        volumes=_beside(config.volumes, image.volumes),
    )


def _beside(mine: Mapping[str, Value] | None, image: Mapping[str, Value] | None) -> dict[str, Value]:
    theirs = image or {}
    return {key: value for key, value in (mine or {}).items() if key not in theirs or theirs[key] != value}


def _environment(given: tuple[str, ...], old: str, new: New) -> tuple[str, ...]:
    found = dict(each.partition("=")[::2] for each in given)
    for key in ("TRUNKLINE_SERVER_NAME", "POD_NAME"):
        if key in found:
            found[key] = _node_name(new)
    if "TRUNKLINE_SERVER_ADVERTISE" in found:
        found["TRUNKLINE_SERVER_ADVERTISE"] = recoloured(found["TRUNKLINE_SERVER_ADVERTISE"], old, new.colour)
    # The version of the old image would be a wrong one; what the new image itself says is not in here.
    found.pop("TRUNKLINE_SERVER_VERSION", None)
    found["TRUNKLINE_SERVER_COLOUR"] = new.colour
    if new.version:
        found["TRUNKLINE_SERVER_VERSION"] = new.version
    return tuple(f"{key}={value}" for key, value in found.items())


def _command(given: tuple[str, ...] | None, new: New) -> tuple[str, ...] | None:
    """The command with its --colour and --name changed."""
    if given is None:
        return None
    found: list[str] = []
    for word in given:
        option, equals, _ = word.partition("=")
        before = found[-1] if found else ""
        if before in ("--colour", "--name"):
            found.append(new.colour if before == "--colour" else _node_name(new))
        elif equals and option in ("--colour", "--name"):
            found.append(f"{option}={new.colour if option == '--colour' else _node_name(new)}")
        else:
            found.append(word)
    return tuple(found)


def _node_name(new: New) -> str:
    return new.name.text[:_NAME_CHARS]


def _labels(given: Mapping[str, str], old: str, new: New) -> dict[str, str]:
    found = {key: value for key, value in given.items() if key != REPLACES}
    if SERVICE in found:
        found[SERVICE] = recoloured(found[SERVICE], old, new.colour)
        found[NUMBER] = str(new.name.number)
        found[COMPOSE_IMAGE] = new.image_id
    return {**found, COLOUR: new.colour, DEPLOY: new.deploy}


def _hostname(model: Container, new: New) -> str:
    """One that the daemon gave is not kept; nor is one that two containers would have."""
    given = model.config.hostname
    if not given or model.id.startswith(given):
        return ""
    renamed = recoloured(given, model.colour, new.colour)
    return renamed if new.name.number == 1 or renamed == given else ""


def _attachment(model: Container, attachment: Attachment, name: str, colour: str) -> Attachment:
    """Its aliases as those of the new container; the id, which the daemon adds, is not one of them."""
    found: dict[str, None] = {}
    for alias in attachment.aliases or ():
        if alias == model.called:
            found[name] = None
        if alias != model.called or alias == model.labels.get(SERVICE):
            found[recoloured(alias, model.colour, colour)] = None
    aliases = tuple(alias for alias in found if not model.id.startswith(alias))
    return msgspec.structs.replace(attachment, aliases=aliases or None)
