"""What a new container takes from a present one, without a daemon."""

from __future__ import annotations

from itertools import islice
from typing import Any

import msgspec
import pytest

from trunkline.deploy.runtimes.docker.containers import Container, Image
from trunkline.deploy.runtimes.docker.model import Name, New, like, names, recoloured

ID = "0123456789abcdef" * 4
FIRST = Name("websocket-green", 1)


def container(name: str = "websocket-blue", *, networks: Any = None, mode: str = "fleet", **config: Any) -> Container:
    """A container of blue as the daemon describes it."""
    labels = {"trunkline.colour": "blue", **config.pop("Labels", {})}
    described = {
        "Id": ID,
        "Name": f"/{name}",
        "Image": "sha256:1",
        "State": {"Status": "running", "Running": True},
        "Config": {"Image": "shop:1", "Labels": labels, **config},
        "HostConfig": {"NetworkMode": mode, "Memory": 512, "AutoRemove": True},
        "NetworkSettings": {"Networks": {"fleet": None} if networks is None else networks},
    }
    return msgspec.json.decode(msgspec.json.encode(described), type=Container)


def image(**config: Any) -> Image:
    """An image as the daemon describes it."""
    return msgspec.json.decode(msgspec.json.encode({"Id": "sha256:1", "Config": config}), type=Image)


def made(model: Container, of: Image | None = None, *, name: Name = FIRST, version: str = "") -> Any:
    """The body that creates a container like `model`, as the daemon is sent it."""
    new = New(name, "green", "shop:2", "sha256:2", version, "d1")
    return msgspec.json.decode(msgspec.json.encode(like(model, of, new).body))


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("websocket-blue", "websocket-green"), ("blue", "green"), ("http://ws_blue:3001", "http://ws_green:3001"),
        ("bluebird", "bluebird"), ("ws2blue", "ws2blue"), ("nodes", "nodes"), ("blue.blue", "green.green"),
    ],
)  # fmt: skip
def test_only_whole_words_change_their_colour(text: str, becomes: str) -> None:
    """A name that only holds the letters of a colour is another name."""
    assert recoloured(text, "blue", "green") == becomes


@pytest.mark.parametrize(
    ("model", "taken", "first"),
    [
        ("websocket-blue", (), ["websocket-green", "websocket-green-2"]),
        ("shop-websocket-blue-3", (), ["shop-websocket-green-1", "shop-websocket-green-2"]),
        ("shop_blue_1", ("shop_green_1",), ["shop_green_2", "shop_green_3"]),
        ("node", (), ["node-green", "node-green-2"]),
        ("ws-go-2", (), ["ws-go-green-1", "ws-go-green-2"]),
    ],
)
def test_names_of_new_containers(model: str, taken: tuple[str, ...], first: list[str]) -> None:
    """By the present name, with the new colour, and never one that is taken."""
    found = islice(names(container(model), "green", frozenset(taken)), 2)
    assert [name.text for name in found] == first


def test_what_the_image_says_is_left_to_the_image() -> None:
    """What differs from the image was meant for this container, and is kept."""
    old = image(
        Env=["PATH=/bin", "RELEASE=1"], Cmd=["serve"], Entrypoint=["trunkline"], WorkingDir="/app", User="10001",
        Labels={"maker": "us"}, ExposedPorts={"3001/tcp": {}}, Volumes={"/data": {}}, StopSignal="SIGTERM",
        Healthcheck={"Test": ["CMD", "true"]},
    )  # fmt: skip
    inherited = msgspec.to_builtins(msgspec.json.decode(msgspec.json.encode(old.config), type=dict[str, Any]))
    model = container(**{**inherited, "Labels": {"maker": "us", "team": "live"}, "Env": [*inherited["Env"], "MINE=1"]})
    body = made(model, old)
    assert body["Env"] == ["MINE=1", "TRUNKLINE_SERVER_COLOUR=green"]
    assert body["Labels"] == {"team": "live", "trunkline.colour": "green", "trunkline.deploy": "d1"}
    assert body["Image"] == "shop:2"
    assert not {"Cmd", "Entrypoint", "WorkingDir", "User", "StopSignal", "Healthcheck"} & body.keys()
    assert (body.get("ExposedPorts"), body.get("Volumes")) == ({}, {})
    own = made(container(Cmd=["serve"], Entrypoint=["tini", "trunkline"], Healthcheck={"Test": ["NONE"]}), old)
    assert (own["Entrypoint"], own["Cmd"], own["Healthcheck"]) == (["tini", "trunkline"], ["serve"], {"Test": ["NONE"]})


def test_without_the_old_image_everything_is_kept() -> None:
    """It was deleted meanwhile; what it said cannot be told from the rest."""
    assert made(container(Env=["RELEASE=1"]))["Env"] == ["RELEASE=1", "TRUNKLINE_SERVER_COLOUR=green"]


def test_who_a_node_is_becomes_the_new_ones() -> None:
    """In its environment as in its command; a version is never taken over."""
    env = [
        "TRUNKLINE_SERVER_NAME=blue-1", "POD_NAME=blue-1", "TRUNKLINE_SERVER_VERSION=1", "OTHER=blue",
        "TRUNKLINE_SERVER_ADVERTISE=http://websocket-blue:3001", "TRUNKLINE_SERVER_COLOUR=blue",
    ]  # fmt: skip
    body = made(container(Env=env, Cmd=["serve", "--colour", "blue", "--name=blue-1", "--port", "3001"]), version="2")
    assert set(body["Env"]) == {
        "TRUNKLINE_SERVER_NAME=websocket-green", "POD_NAME=websocket-green", "TRUNKLINE_SERVER_VERSION=2", "OTHER=blue",
        "TRUNKLINE_SERVER_ADVERTISE=http://websocket-green:3001", "TRUNKLINE_SERVER_COLOUR=green",
    }  # fmt: skip
    assert body["Cmd"] == ["serve", "--colour", "green", "--name=websocket-green", "--port", "3001"]
    assert "TRUNKLINE_SERVER_VERSION" not in str(made(container(Env=env)))


def test_host_names() -> None:
    """One that the daemon gave is given again; one that two containers would have is not kept."""
    assert "Hostname" not in made(container(Hostname=ID[:12]))
    assert made(container(Hostname="websocket-blue"))["Hostname"] == "websocket-green"
    assert "Hostname" not in made(container(Hostname="websocket-blue"), name=Name("websocket-green-2", 2))
    assert made(container(Hostname="ws.example.org"))["Hostname"] == "ws.example.org"


def test_networks() -> None:
    """The first one at its creation, the others after it; addresses are not kept, and aliases change their colour."""
    networks = {
        "back": {"Aliases": None, "IPAMConfig": {"IPv4Address": "10.0.0.7"}},
        "fleet": {"Aliases": ["websocket-blue", "nodes", ID[:12]], "IPAddress": "10.1.0.7"},
    }
    service = {"com.docker.compose.service": "websocket-blue"}
    model = container("shop-websocket-blue-1", networks=networks, Labels=service)
    planned = like(model, None, New(Name("shop-websocket-green-1", 1), "green", "shop:2", "sha256:2", "", "d1"))
    body = msgspec.json.decode(msgspec.json.encode(planned.body))
    assert body["NetworkingConfig"] == {"EndpointsConfig": {"fleet": {"Aliases": ["websocket-green", "nodes"]}}}
    assert msgspec.to_builtins(planned.further) == {"back": {}}
    # It is not removed when it ends, as one of `docker run --rm`, for its last lines are wanted.
    assert body["HostConfig"] == {"NetworkMode": "fleet", "Memory": 512, "AutoRemove": False}
    assert made(container(mode="none"))["NetworkingConfig"] == {"EndpointsConfig": {}}


def test_a_container_name_that_is_the_services_too() -> None:
    """With a second container it stays an alias of both."""
    networks = {"fleet": {"Aliases": ["websocket-blue"]}}
    model = container(networks=networks, Labels={"com.docker.compose.service": "websocket-blue"})
    body = made(model, name=Name("websocket-green-2", 2))
    assert body["NetworkingConfig"]["EndpointsConfig"]["fleet"]["Aliases"] == ["websocket-green-2", "websocket-green"]
    assert body["Labels"]["com.docker.compose.container-number"] == "2"
