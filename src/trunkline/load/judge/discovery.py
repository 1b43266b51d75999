"""Finds the servers behind a target, so that a run can watch them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec

from trunkline.errors import SettingsError
from trunkline.load.judge.scraper import Scraper, is_http, scraper
from trunkline.load.output.formatting import counted, plain
from trunkline.net.addresses import is_loopback

_ORIGIN_ASKED: Final = 10
"""How often the target's own origin is asked whether it is always the same server. Where a balancer draws one of two,
all of these reach the same one in 1 of 500 runs, and then the watch notices later."""

_BALANCER_PATH: Final = "/balancer-metrics"
"""Where a balancer shows its backends unless its settings say otherwise."""


class Discovered(msgspec.Struct, frozen=True):
    """The servers to watch."""

    urls: tuple[str, ...]  # of their `/metrics`; none when the servers cannot be watched
    note: str  # where these come from, or why there are none, as a sentence without a full stop
    named: bool = False  # the user named them, so that they may get the user's token


async def discover(target_url: str, given: Sequence[str] = (), tls: ssl.SSLContext | bool = True) -> Discovered:
    """Find the `/metrics` of the servers behind a target.

    URLs that the user named are taken as they are, with `/metrics` where they have no path. Else, when the target is on
    this machine, a Trunkline balancer is looked for: its admin port is the one after its port, and its own port has the
    same page. Else the target itself is asked, which is of use when one server answers there. Raises SettingsError when
    one of `given` is no URL for HTTP.
    """
    if given:
        urls = tuple(dict.fromkeys(_metrics_url(url) for url in given))
        return Discovered(urls, f"{counted(len(urls), 'server')} named with --metrics", named=True)
    parts = urlsplit(target_url)
    scheme, default_port = ("https", 443) if parts.scheme == "wss" else ("http", 80)
    host, port = parts.hostname or "", parts.port or default_port
    place = f"[{host}]" if ":" in host else host
    origin = f"{scheme}://{place}:{port}"
    async with scraper(tls=tls) as fetching:
        if is_loopback(host) or host.endswith(".localhost"):
            pages = [f"{origin}{_BALANCER_PATH}"]
            if port < 65_535:
                pages.insert(0, f"http://{place}:{port + 1}{_BALANCER_PATH}")
            for page in pages:
                backends = await fetching.backends(page)
                if backends:
                    return await _behind_balancer(fetching, page, backends)
        return await _at_origin(fetching, f"{origin}/metrics")


async def _behind_balancer(fetching: Scraper, page: str, backends: list[str]) -> Discovered:
    urls = tuple(dict.fromkeys(f"{backend.rstrip('/')}/metrics" for backend in backends))
    answers = await fetching.scrape(urls)
    silent = [url for url, scrape in answers.items() if scrape is None]
    if len(silent) == len(urls):
        return Discovered((), f"no backend of the balancer at {page} answers as a Trunkline server does")
    note = f"{counted(len(urls), 'backend')} of the balancer at {page}"
    if silent:
        note += f"; without an answer as a Trunkline server gives it: {', '.join(silent[:3])}"
        note += f" and {len(silent) - 3} more" if len(silent) > 3 else ""
    return Discovered(urls, note)


async def _at_origin(fetching: Scraper, url: str) -> Discovered:
    first = await fetching.scrape([url])
    if first[url] is None:
        return Discovered((), f"{url} does not answer as a Trunkline server does; name others with --metrics")
    # Each on a connection of its own: a balancer in between chooses again for each.
    more = await asyncio.gather(*(fetching.scrape([url]) for _ in range(_ORIGIN_ASKED - 1)))
    names = {scrape.node for answers in (first, *more) if (scrape := answers[url]) is not None}
    if len(names) > 1:
        some = ", ".join(plain(name)[:60] for name in sorted(names)[:3])
        return Discovered(
            (), f"{len(names)} servers answer at {url} in turn ({some}); name the `/metrics` of each with --metrics"
        )
    return Discovered((url,), f"the target's own {url}")


def _metrics_url(given: str) -> str:
    parts = urlsplit(given) if is_http(given) else None
    if parts is None or parts.username is not None or parts.password is not None:
        # Not shown: it may hold a password, which must not get into a log.
        raise SettingsError(
            "--metrics",
            allowed="it takes http:// or https:// URLs without user and password, e.g. http://10.0.0.1:3001",
        )
    return given if parts.path not in ("", "/") else parts._replace(path="/metrics").geturl()
