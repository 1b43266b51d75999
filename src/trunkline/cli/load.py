"""`trunkline load`: prove a fleet before its users do. `load URL` runs; `load compare` and `load agent` are beside it.

Exit codes: 0 every threshold held, 1 one did not, 2 bad usage or a target that cannot be loaded, 130 interrupted.
"""

from __future__ import annotations

import os
import socket
import string
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from trunkline.cli.settings import ConfigFile, loaded
from trunkline.errors import SettingsError, StartError

if TYPE_CHECKING:
    from trunkline.load.model.report import Report

FAILED = 1
INTERRUPTED = 130
_EXTRA = ("picows", "hdrh", "prometheus_client")
_TOKEN = frozenset(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~")


class _UrlFirst(TyperGroup):
    """`load URL …` is short for `load run URL …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # The context is of click, or of the copy of it that newer versions of typer bring.
        if not args or args[0] not in self.commands:
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_UrlFirst, help="Load a WebSocket server and judge what comes back.")


@app.command(epilog="See also: trunkline load compare --help, trunkline load agent --help, trunkline load scenarios.")
def run(
    url: Annotated[str, typer.Argument(help="ws:// or wss:// address of the endpoint.", show_default=False)],
    scenario: Annotated[
        str, typer.Option(help="A name (see `trunkline load scenarios`), or a file, .toml or .py.")
    ] = "hold",
    connections: Annotated[int | None, typer.Option(help="Greatest number of connections.")] = None,
    duration: Annotated[str | None, typer.Option(help="How long in all, such as 30s or 10m.")] = None,
    rate: Annotated[float | None, typer.Option(help="Messages a second over all connections.")] = None,
    rate_each: Annotated[float | None, typer.Option(help="Messages a second of each connection, on top.")] = None,
    message_bytes: Annotated[int | None, typer.Option(help="Length of a message.")] = None,
    channels: Annotated[int | None, typer.Option(help="Feed: channels; default: one for ten connections.")] = None,
    protocol: Annotated[
        str, typer.Option(help="auto, echo (any server that returns what it gets) or feed (a Trunkline node).")
    ] = "auto",
    threshold: Annotated[
        list[str] | None,
        typer.Option(metavar="CONDITION", help="What must hold, such as 'delivery_p99<50ms'; can be given again."),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Generator processes; default: one for 15,000 connections.")
    ] = None,
    agents: Annotated[str | None, typer.Option(help="Machines that generate instead, as named there: a,b,c.")] = None,
    bus: Annotated[str | None, typer.Option(help="nats://… over which agents are reached; default: bus.url.")] = None,
    header: Annotated[
        list[str] | None, typer.Option(metavar="HEADER", help="'Name: value' of the handshake; can be given again.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with a bearer token; read again while the run goes on, so that it can be renewed."),
    ] = None,
    subprotocol: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Subprotocol to offer; can be given again.")
    ] = None,
    ca: Annotated[Path | None, typer.Option(help="Certificates to trust instead of the system's.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Take any certificate.")] = False,
    connect_timeout: Annotated[str, typer.Option(help="Time for connect, TLS and handshake together.")] = "10s",
    metrics: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="/metrics of a server behind the target; default: found out."),
    ] = None,
    metrics_token: Annotated[
        str, typer.Option(envvar="TRUNKLINE_ADMIN_TOKEN", help="Token for the servers named with --metrics.")
    ] = "",
    watch: Annotated[
        bool, typer.Option("--watch/--no-watch", help="Read the servers' /metrics beside the run.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of random choices: which connections are cut, poisson arrivals.")] = 0,
    html: Annotated[Path | None, typer.Option(help="Write the report as one HTML page.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the verdict as JUnit XML.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the report as JSON, for `compare`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of the summary.")] = False,
    config_file: ConfigFile = None,
) -> None:
    """Load a WebSocket server; exit 0 when every threshold held, 1 when not. Ctrl-C ends it with what was seen."""
    require()
    from trunkline.load.model.plan import Target
    from trunkline.load.model.run_plan import AgentGroup
    from trunkline.load.output.live import make_live
    from trunkline.load.run import Interrupted, Run, Watch, run_load, sources_for
    from trunkline.load.scenario.choice import choose
    from trunkline.load.scenario.scaling import Size
    from trunkline.load.scenario.thresholds import parse
    from trunkline.load.token_file import TokenFile
    from trunkline.process import lifecycle

    for path in (html, junit, out):
        check_writable(path)
    size = Size(
        connections=connections, duration_s=_seconds("--duration", duration), rate=rate, rate_each=rate_each,
        message_bytes=message_bytes, channels=channels,
    )  # fmt: skip
    chosen = choose(scenario, size, protocol)
    settings = loaded(config_file, {"bus.url": bus}).settings
    token = TokenFile(token_file) if token_file is not None else None
    headers = tuple(_header(text) for text in header or ())
    if token is not None and any(name.lower() == "authorization" for name, _ in headers):
        raise SettingsError(
            "--token-file", value=str(token_file), allowed="--header gives an Authorization too; keep one"
        )
    target = Target(
        url, headers, subprotocols=tuple(map(_subprotocol, subprotocol or ())), token=token.token if token else "",
        verify_tls=not insecure, ca_file=str(ca) if ca else "",
        connect_timeout_s=_seconds("--connect-timeout", connect_timeout) or 10.0,
        sources=sources_for(url, chosen.scenario.peak),
    )  # fmt: skip
    names = tuple(name.strip() for name in (agents or "").split(",") if name.strip())
    todo = Run(
        target=target, loaded=chosen,
        thresholds=tuple(parse(text) for text in (*chosen.scenario.thresholds, *(threshold or ()))),
        processes=processes, agents=AgentGroup(names, settings.bus.url, settings.bus.prefix),
        watch=Watch(tuple(metrics or ()), metrics_token) if watch else None, seed=seed,
        token_file=token,
    )  # fmt: skip
    live = make_live(as_json)
    try:
        report = lifecycle.run(lambda: run_load(todo, live))
    except Interrupted:
        raise typer.Exit(INTERRUPTED) from None
    finally:
        live.close()
    _deliver(report, html, junit, out, as_json)
    raise typer.Exit({"passed": 0, "failed": FAILED, "interrupted": INTERRUPTED}[report.verdict])


@app.command()
def scenarios() -> None:
    """Name the built-in scenarios."""
    require()
    from trunkline.load.scenario.choice import describe

    for name, description in describe():
        typer.echo(f"{name:8} {description}")


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(metavar="A.json", help="Report of the first run.")],
    after: Annotated[Path, typer.Argument(metavar="B.json", help="Report of the second run.")],
    tolerance: Annotated[str, typer.Option(help="How much worse a number may be, such as 10%.")] = "10%",
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare two reports; exit 1 when the second run is worse."""
    require()
    import msgspec

    from trunkline.load.output.compare import compare as compare_reports
    from trunkline.load.output.compare import comparison_text

    comparison = compare_reports(_report(before), _report(after), 1 + _percent("--tolerance", tolerance))
    if as_json:
        typer.echo(msgspec.json.encode(comparison))
    else:
        typer.echo(comparison_text(comparison, sys.stdout.encoding), nl=False)
    raise typer.Exit(FAILED if comparison.regressed else 0)


@app.command()
def agent(
    allow: Annotated[
        list[str],
        typer.Option(metavar="HOST", help="Host, or host:port, that may be loaded from here; can be given again."),
    ],
    bus: Annotated[str | None, typer.Option(help="nats://… where coordinators are; default: bus.url.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of this machine for --agents; default: its host name.")] = None,
    config_file: ConfigFile = None,
) -> None:
    """Generate load on this machine for runs that are started elsewhere, until Ctrl-C."""
    require()
    from trunkline.load.workers.agent import run_agent
    from trunkline.logs import configure as log_setup
    from trunkline.process import lifecycle

    settings = loaded(config_file, {"bus.url": bus}).settings
    log_setup.configure(settings.log, service="trunkline-load")
    own = name or socket.gethostname()
    raise typer.Exit(lifecycle.run(lambda: run_agent(settings.bus.url, settings.bus.prefix, own, tuple(allow))))


def require() -> None:
    """Refuse without the packages of the load tester; raises StartError."""
    if missing := [name for name in _EXTRA if find_spec(name) is None]:
        raise StartError(f"the load tester is not installed ({missing[0]} is missing)", "pip install 'trunkline[load]'")


def _deliver(report: Report, html: Path | None, junit: Path | None, out: Path | None, as_json: bool) -> None:
    """Hand the report over in every requested form."""
    from rich.console import Console

    from trunkline.load.model.report import encode
    from trunkline.load.output.junit import junit as junit_xml
    from trunkline.load.output.page import page
    from trunkline.load.output.summary import render

    for path, make in ((html, page), (junit, junit_xml), (out, encode)):
        if path is not None:
            try:
                path.write_bytes(make(report))
            except OSError as error:
                # The run is over, and what it found must not be lost for a full disk.
                print(f"trunkline: {path} could not be written: {error.strerror}", file=sys.stderr)
    try:
        if as_json:
            sys.stdout.buffer.write(encode(report) + b"\n")
        else:
            render(report, Console(highlight=False, markup=False, emoji=False, soft_wrap=True))
        sys.stdout.flush()
    except OSError as error:
        print(f"trunkline: the report could not be printed: {error.strerror}", file=sys.stderr)
        # What is still buffered would fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_writable(path: Path | None) -> None:
    """Refuse, before ten minutes of load, a file that cannot be written behind them."""
    if path is not None and (
        path.is_dir() or not os.access(path if path.exists() else path.absolute().parent, os.W_OK)
    ):
        raise SettingsError("file", value=str(path), allowed="it must be a file in a directory that can be written to")


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name or set(name) - _TOKEN or any(ord(letter) < 32 for letter in value):
        # Where the colon is missing or misplaced, what is before it may be the secret.
        raise SettingsError("--header", allowed="allowed: 'Name: value'")
    return name, value.strip()


def _subprotocol(name: str) -> str:
    if not name or set(name) - _TOKEN:
        raise SettingsError("--subprotocol", value=name, allowed="allowed: one word, see RFC 6455 section 4.1")
    return name


def _seconds(option: str, text: str | None) -> float | None:
    from trunkline.settings.quantities import seconds

    if text is None:
        return None
    found = seconds(text)
    if found is None or found <= 0:
        raise SettingsError(option, value=text, allowed="allowed: a length of time such as 500ms, 30s, 10m or 1h")
    return found


def _percent(option: str, text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not 0 <= share <= 100:
        raise SettingsError(option, value=text, allowed="allowed: a share such as 10%")
    return share


def _report(path: Path) -> Report:
    import msgspec

    from trunkline.load.model.report import decode

    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise SettingsError("file", value=str(path), allowed=f"it cannot be read: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise SettingsError("file", value=str(path), allowed=f"it is no report of `load --out`: {error}") from None
