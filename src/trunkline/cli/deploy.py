"""`trunkline deploy`: move a fleet's clients to new nodes, count them, and say in numbers that nobody lost anything.

Exit codes: 0 done and the verdict passes; 1 done and it fails; 2 bad usage or settings; 3 rolled back; 4 stuck;
5 another deploy or process holds the lease; 6 refused before anything was begun; 130 interrupted, the state is kept.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from trunkline.cli.settings import ConfigFile, loaded
from trunkline.errors import SettingsError, TrunklineError

if TYPE_CHECKING:
    from trunkline.bus.base import FleetStore
    from trunkline.deploy.parts import Outcome, Parts
    from trunkline.deploy.verdict.verdict import DeployVerdict
    from trunkline.load.scenario.comparison import Threshold
    from trunkline.settings.load import Loaded

FAILED = 1
HELD = 5
REFUSED = 6
INTERRUPTED = 130

_COLOUR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,58}")

app = typer.Typer(no_args_is_help=True, help="Move clients to new nodes, and prove that nobody lost anything.")

Balancers = Annotated[
    list[str] | None,
    typer.Option("--balancer", metavar="URL", help="Admin address of a balancer; can be given again."),
]
Bus = Annotated[str | None, typer.Option(help="nats://… of the fleet; default: bus.url, or that of `trunkline up`.")]
EdgeUrl = Annotated[
    str | None, typer.Option("--edge", metavar="URL", help="ws:// or wss:// address that clients connect to.")
]
DataDir = Annotated[Path | None, typer.Option(help="That of `trunkline up`; default: .trunkline.")]
TokenOf = Annotated[Path | None, typer.Option("--token-file", help="File with a bearer token for the witnesses.")]
Ca = Annotated[Path | None, typer.Option(help="Certificates to trust instead of the system's.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Take any certificate.")]
Thresholds = Annotated[
    list[str] | None,
    typer.Option(
        "--threshold", metavar="CONDITION", help="What must hold, such as 'away_p99<=2s'; can be given again."
    ),
]
Html = Annotated[Path | None, typer.Option(help="Write the verdict as one HTML page.")]
Junit = Annotated[Path | None, typer.Option(help="Write the verdict as JUnit XML.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Id = Annotated[str, typer.Argument(metavar="[ID]", help="Of the deploy; default: the newest.", show_default=False)]


@app.command()
def run(
    colour: Annotated[str, typer.Argument(metavar="COLOUR", help="The new colour, such as green.")],
    runtime: Annotated[
        str, typer.Option(help="Who starts and stops nodes: none (somebody else) or local (`trunkline up`).")
    ] = "none",
    app_name: Annotated[
        str, typer.Option("--app", metavar="M:A", help="Application of the new nodes; default: that of the fleet.")
    ] = "",
    image: Annotated[str, typer.Option(help="Image of the new nodes, for runtimes with containers.")] = "",
    python: Annotated[str, typer.Option(help="local: interpreter that has the release to run.")] = "",
    version: Annotated[str, typer.Option(help="The server.version that the new nodes have to report.")] = "",
    nodes: Annotated[
        int | None, typer.Option(min=1, max=64, help="How many new nodes; default: as many as now.")
    ] = None,
    over: Annotated[str, typer.Option(help="Time to move all clients over, at least.")] = "60s",
    rate: Annotated[float | None, typer.Option(help="Most clients to move a second.")] = None,
    verify: Annotated[str, typer.Option(help="Time to watch the new colour before clients are moved.")] = "30s",
    keep: Annotated[str, typer.Option(help="Time to keep the old colour, empty; 0s: not.")] = "5m",
    witnesses: Annotated[
        int, typer.Option(min=0, max=10_000, help="Sessions that account for every message; 0: none.")
    ] = 50,
    on_slow: Annotated[
        str, typer.Option(help="When clients do not leave in time: wait, rollback, or force (they are cut).")
    ] = "wait",
    without: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Balancer whose silence is accepted; can be given again.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before it begins.")] = False,
    balancer: Balancers = None,
    bus: Bus = None,
    edge: EdgeUrl = None,
    data_dir: DataDir = None,
    token_file: TokenOf = None,
    ca: Ca = None,
    insecure: Insecure = False,
    threshold: Thresholds = None,
    html: Html = None,
    junit: Junit = None,
    as_json: AsJson = False,
    config_file: ConfigFile = None,
) -> None:
    """Bring up a new colour, move everybody to it, and judge what was measured.

    Whatever fails before the old colour is removed is rolled back. It goes on from where it was after an interruption:
    trunkline deploy resume.
    """
    _require()
    from trunkline.cli import deploy_fleet
    from trunkline.deploy.parts import DeployOptions
    from trunkline.deploy.run import run_deploy
    from trunkline.deploy.runtimes.base import What

    if not _COLOUR.fullmatch(colour):
        raise SettingsError("COLOUR", value=colour, allowed="1 to 59 letters, digits, '.', '_' and '-'")
    if on_slow not in ("wait", "rollback", "force"):
        raise SettingsError("--on-slow", value=on_slow, allowed="wait, rollback or force")
    if rate is not None and not rate >= 1:
        raise SettingsError("--rate", value=str(rate), allowed="at least 1 client/s")
    own = _parsed(threshold)
    _writable(html, junit)
    options = DeployOptions(
        to_colour=colour,
        runtime=runtime,
        what=What(app_name, image, python, version),
        nodes=nodes or 0,
        over_s=_seconds("--over", over),
        rate=rate,
        verify_s=_seconds("--verify", verify),
        keep_s=_seconds("--keep", keep),
        witnesses=witnesses,
        on_slow=cast('Literal["wait", "rollback", "force"]', on_slow),
        without=tuple(without or ()),
        owner=deploy_fleet.owner(),
    )
    found = _settings(config_file, bus, data_dir)
    deploy_fleet.runtime_of(runtime, found.settings.up.data_dir)

    async def main() -> int:
        reached = await deploy_fleet.find(found, balancer or (), edge, local=runtime == "local")
        place = deploy_fleet.edge_of(reached.edge, token_file, ca, insecure=insecure)
        if witnesses and not place.url:
            raise SettingsError("--edge", allowed="name where clients connect, or go without witnesses (--witnesses 0)")
        async with deploy_fleet.connected(reached) as fleet:
            if not yes and sys.stdin.isatty():
                view = await fleet.world.look()
                old = sum(node.connections for node in view.nodes if node.colour != colour)
                if not typer.confirm(f"Move {old:,} clients to {colour} within {over} or more?", err=True):
                    return _refused("the answer was no")
            return await _drive(
                lambda parts: run_deploy(options, parts), deploy_fleet.parts_of(fleet, found, place), own,
                _Deliver(html, junit, as_json),
            )  # fmt: skip

    _run(main)


@app.command()
def resume(
    balancer: Balancers = None,
    bus: Bus = None,
    edge: EdgeUrl = None,
    data_dir: DataDir = None,
    token_file: TokenOf = None,
    ca: Ca = None,
    insecure: Insecure = False,
    threshold: Thresholds = None,
    html: Html = None,
    junit: Junit = None,
    as_json: AsJson = False,
    config_file: ConfigFile = None,
) -> None:
    """Go on with a deploy whose process was interrupted or killed."""
    _require()
    from trunkline.deploy.run import resume_deploy

    _take_over(resume_deploy, balancer, bus, edge, data_dir, token_file, ca, insecure, threshold, html, junit, as_json,
               config_file)  # fmt: skip


@app.command()
def rollback(
    balancer: Balancers = None,
    bus: Bus = None,
    edge: EdgeUrl = None,
    data_dir: DataDir = None,
    token_file: TokenOf = None,
    ca: Ca = None,
    insecure: Insecure = False,
    threshold: Thresholds = None,
    html: Html = None,
    junit: Junit = None,
    as_json: AsJson = False,
    config_file: ConfigFile = None,
) -> None:
    """Give traffic and clients back to the old colour, until the moment at which it is removed."""
    _require()
    from trunkline.deploy.run import roll_back

    _take_over(roll_back, balancer, bus, edge, data_dir, token_file, ca, insecure, threshold, html, junit, as_json,
               config_file)  # fmt: skip


@app.command()
def abort(
    balancer: Balancers = None,
    bus: Bus = None,
    edge: EdgeUrl = None,
    data_dir: DataDir = None,
    token_file: TokenOf = None,
    ca: Ca = None,
    insecure: Insecure = False,
    threshold: Thresholds = None,
    html: Html = None,
    junit: Junit = None,
    as_json: AsJson = False,
    config_file: ConfigFile = None,
) -> None:
    """End a deploy: undone before traffic was switched, left as it is afterwards."""
    _require()
    from trunkline.deploy.run import abort_deploy

    _take_over(abort_deploy, balancer, bus, edge, data_dir, token_file, ca, insecure, threshold, html, junit, as_json,
               config_file)  # fmt: skip


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Go on until the deploy is over.")] = False,
    balancer: Balancers = None,
    bus: Bus = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    config_file: ConfigFile = None,
) -> None:
    """Show the present or last deploy: its state, who drives it, and since when."""
    _require()
    from trunkline.cli import deploy_fleet
    from trunkline.deploy.view.status import show_status

    found = _settings(config_file, bus, data_dir)

    async def main() -> int:
        reached = await deploy_fleet.find(found, balancer or (), None, local=False)
        async with deploy_fleet.connected(reached, world=False) as fleet:
            await show_status(fleet.store, sys.stdout, watch=watch, as_json=as_json)
        return 0

    _run(main)


@app.command()
def history(bus: Bus = None, data_dir: DataDir = None, as_json: AsJson = False, config_file: ConfigFile = None) -> None:
    """List the deploys whose verdicts are kept, newest first."""
    _require()
    import msgspec

    from trunkline.deploy.verdict import kept
    from trunkline.deploy.verdict.text import history_text

    async def show(store: FleetStore) -> int:
        found = await kept.history(store)
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n" if as_json else history_text(found))
        return 0

    _with_store(show, bus, data_dir, config_file)


@app.command()
def verdict(
    id: Id = "",
    threshold: Thresholds = None,
    html: Html = None,
    junit: Junit = None,
    bus: Bus = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    config_file: ConfigFile = None,
) -> None:
    """Show the verdict of a deploy; exit 0 when it passed, else 1.

    With own thresholds it is judged by these; what is kept does not change.
    """
    _require()
    from trunkline.deploy.verdict import kept
    from trunkline.deploy.verdict.verdict import make_verdict

    own = _parsed(threshold)
    _writable(html, junit)

    async def show(store: FleetStore) -> int:
        found = await kept.read(store, id)
        if found is None:
            raise (
                SettingsError("ID", value=id, allowed="no such verdict is kept; see trunkline deploy history")
                if id
                else SettingsError("ID", allowed="no verdict is kept in this fleet")
            )
        if own:
            found = make_verdict(found.facts, own)
        _Deliver(html, junit, as_json)(found)
        return 0 if found.passed else FAILED

    _with_store(show, bus, data_dir, config_file)


class _Deliver:
    """Hands a verdict over in every requested form."""

    def __init__(self, html: Path | None, junit: Path | None, as_json: bool) -> None:
        self._html = html
        self._junit = junit
        self._as_json = as_json

    def __call__(self, verdict: DeployVerdict) -> None:
        from trunkline.deploy.verdict.junit import junit
        from trunkline.deploy.verdict.page import page
        from trunkline.deploy.verdict.text import text
        from trunkline.deploy.verdict.verdict import encode

        out = encode(verdict).decode() + "\n" if self._as_json else text(verdict, sys.stdout.encoding or "utf-8")
        sys.stdout.write(out)
        sys.stdout.flush()
        for path, make in ((self._html, page), (self._junit, junit)):
            if path is not None:
                try:
                    path.write_bytes(make(verdict))
                except OSError as error:
                    print(f"trunkline: {path} cannot be written: {error.strerror}", file=sys.stderr)


def _take_over(
    order: Callable[[Parts, str], Coroutine[Any, Any, Outcome]],
    balancer: list[str] | None,
    bus: str | None,
    edge: str | None,
    data_dir: Path | None,
    token_file: Path | None,
    ca: Path | None,
    insecure: bool,
    threshold: list[str] | None,
    html: Path | None,
    junit: Path | None,
    as_json: bool,
    config_file: Path | None,
) -> None:
    """Resume, roll back or abort."""
    from trunkline.cli import deploy_fleet

    own = _parsed(threshold)
    _writable(html, junit)
    found = _settings(config_file, bus, data_dir)

    async def main() -> int:
        reached = await deploy_fleet.find(found, balancer or (), edge, local=False)
        place = deploy_fleet.edge_of(reached.edge, token_file, ca, insecure=insecure)
        async with deploy_fleet.connected(reached) as fleet:
            return await _drive(
                lambda parts: order(parts, deploy_fleet.owner()),
                deploy_fleet.parts_of(fleet, found, place), own, _Deliver(html, junit, as_json),
            )  # fmt: skip

    _run(main)


async def _drive(
    order: Callable[[Parts], Coroutine[Any, Any, Outcome]],
    parts: Parts,
    own: tuple[Threshold, ...],
    deliver: Callable[[DeployVerdict], None],
) -> int:
    """Carry it out under the live view; the first signal gives it up in order, the second at once."""
    import asyncio

    from trunkline.deploy.verdict.facts import turned_back
    from trunkline.deploy.view.live import make_live
    from trunkline.process import lifecycle
    from trunkline.protocol.deploys import OVER

    signals = lifecycle.Signals()
    signals.first.add_done_callback(lambda _: parts.stop.set())
    live = make_live()
    parts.on_progress = live.progress
    parts.thresholds = own
    driving = asyncio.ensure_future(order(parts))
    try:
        either: set[asyncio.Future[Any]] = {driving, signals.second}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        live.close()
    if not driving.done():
        driving.cancel()
        await asyncio.gather(driving, return_exceptions=True)
        return INTERRUPTED
    outcome = driving.result()
    if outcome.state in OVER:
        deliver(outcome.verdict)
        turned = turned_back(outcome.verdict.facts.spans)
        if outcome.state == "rolled_back" and turned is not None:
            print(f"trunkline: rolled back from {turned.state}: {turned.why}", file=sys.stderr)
    elif outcome.interrupted:
        print(f"trunkline: interrupted in {outcome.state}; go on with: trunkline deploy resume", file=sys.stderr)
    else:
        deliver(outcome.verdict)
        print(
            f"trunkline: the deploy is {outcome.state}: {outcome.why}. Both colours run; "
            "trunkline deploy resume tries again, rollback and abort end it",
            file=sys.stderr,
        )
    return outcome.exit_code


def _settings(config_file: Path | None, bus: str | None, data_dir: Path | None) -> Loaded:
    """The settings; warnings go to standard error, for standard output carries the result alone."""
    from msgspec.structs import replace

    from trunkline.logs import configure as log_setup

    found = loaded(config_file, {"bus.url": bus, "up.data_dir": data_dir})
    log = found.settings.log
    if found.sources["log.level"] == "default":
        log = replace(log, level="warning")
    log_setup.configure(log, service="trunkline-deploy", stream=sys.stderr)
    return found


def _with_store(
    show: Callable[[FleetStore], Coroutine[Any, Any, int]], bus: str | None, data_dir: Path | None, config: Path | None
) -> None:
    from trunkline.cli import deploy_fleet

    found = _settings(config, bus, data_dir)

    async def main() -> int:
        reached = await deploy_fleet.find(found, (), None, local=False)
        async with deploy_fleet.connected(reached, world=False) as fleet:
            return await show(fleet.store)

    _run(main)


def _run(main: Callable[[], Coroutine[Any, Any, int]]) -> None:
    """Run it, and exit with its code; what keeps it from beginning is one line."""
    from trunkline.deploy.lease import LeaseHeld, LeaseLost
    from trunkline.errors import StartError
    from trunkline.process import lifecycle

    try:
        code = lifecycle.run(main)
    except (LeaseHeld, LeaseLost) as error:
        print(f"trunkline: {error}", file=sys.stderr)
        code = HELD
    except (SettingsError, StartError):
        raise
    except TrunklineError as error:
        code = _refused(str(error))
    raise typer.Exit(code)


def _refused(why: str) -> int:
    print(f"trunkline: refused: {why}", file=sys.stderr)
    return REFUSED


def _require() -> None:
    from trunkline.cli.load import require

    require()


def _parsed(texts: list[str] | None) -> tuple[Threshold, ...]:
    from trunkline.deploy.verdict.thresholds import parse

    return tuple(parse(text) for text in texts or ())


def _writable(*paths: Path | None) -> None:
    from trunkline.cli.load import check_writable

    for path in paths:
        check_writable(path)


def _seconds(option: str, text: str) -> float:
    from trunkline.settings.quantities import seconds

    found = seconds(text)
    if found is None or found < 0:
        raise SettingsError(option, value=text, allowed="a length of time such as 0s, 30s, 10m or 1h")
    return found
