"""The commands of `trunkline deploy` that begin a deploy, go on with it, or end it."""

from __future__ import annotations

import sys
from typing import Annotated, Literal, cast

import typer

from trunkline.cli.deploy import driving
from trunkline.cli.deploy.options import (
    AsJson,
    Balancers,
    Bus,
    Ca,
    DataDir,
    EdgeUrl,
    Html,
    Insecure,
    Junit,
    Thresholds,
    TokenOf,
    colour_of,
    seconds_of,
    settings_of,
    thresholds_of,
)
from trunkline.cli.deploy.outcome import Deliver
from trunkline.cli.deploy.reading import history, status, verdict
from trunkline.cli.load import require
from trunkline.cli.settings import ConfigFile
from trunkline.errors import SettingsError

app = typer.Typer(no_args_is_help=True, help="Move clients to new nodes, and prove that nobody lost anything.")


@app.command()
def run(
    colour: Annotated[str, typer.Argument(metavar="COLOUR", help="The new colour, such as green.")],
    runtime: Annotated[
        str,
        typer.Option(
            help="Who starts and stops nodes: none (somebody else), local (`trunkline up`), docker (containers), or "
            "kubernetes (Deployments)."
        ),
    ] = "none",
    app_name: Annotated[
        str, typer.Option("--app", metavar="M:A", help="Application of the new nodes; default: that of the fleet.")
    ] = "",
    image: Annotated[
        str,
        typer.Option(help="Image of the new nodes, for runtimes with containers; default: that of the present ones."),
    ] = "",
    project: Annotated[
        str,
        typer.Option(
            envvar="COMPOSE_PROJECT_NAME", help="docker: project of Compose, where several have containers of a colour."
        ),
    ] = "",
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
    require()
    from trunkline.cli.deploy import fleet
    from trunkline.deploy.machine.plan import Plan
    from trunkline.deploy.parts import DeployOptions
    from trunkline.deploy.run import run_deploy
    from trunkline.deploy.runtimes.base import What

    colour = colour_of(colour)
    if on_slow not in ("wait", "rollback", "force"):
        raise SettingsError("--on-slow", value=on_slow, allowed="wait, rollback or force")
    if rate is not None and not rate >= 1:
        raise SettingsError("--rate", value=str(rate), allowed="at least 1 client/s")
    options = DeployOptions(
        to_colour=colour,
        runtime=runtime,
        what=What(app_name, image, python, version, project),
        nodes=nodes or 0,
        over_s=seconds_of("--over", over),
        rate=rate,
        verify_s=seconds_of("--verify", verify),
        keep_s=seconds_of("--keep", keep),
        witnesses=witnesses,
        on_slow=cast('Literal["wait", "rollback", "force"]', on_slow),
        without=tuple(without or ()),
        owner=fleet.owner(),
    )
    own, deliver = thresholds_of(threshold), Deliver(html, junit, as_json)
    found = settings_of(config_file, bus, data_dir)
    # Refused here it is a wrong option; later it would be a deploy that was begun and refused.
    fleet.runtime_of(Plan(id="", from_colour="", to_colour=colour, nodes=1, runtime=runtime), found.settings)
    target = driving.Target(found, tuple(balancer or ()), edge, token_file, ca, insecure, local=runtime == "local")
    if not yes and sys.stdin.isatty():
        driving.ask(target, colour, over)
    driving.drive(target, lambda parts: run_deploy(options, parts), own, deliver, witnesses=witnesses)


def _add(name: Literal["resume", "rollback", "abort"], about: str) -> None:
    """Add a command that takes over the deploy there is."""

    def command(
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
        require()
        from trunkline.cli.deploy.fleet import owner
        from trunkline.deploy.run import abort_deploy, resume_deploy, roll_back

        order = {"resume": resume_deploy, "rollback": roll_back, "abort": abort_deploy}[name]
        found = settings_of(config_file, bus, data_dir)
        target = driving.Target(found, tuple(balancer or ()), edge, token_file, ca, insecure, local=False)
        driving.drive(
            target, lambda parts: order(parts, owner()), thresholds_of(threshold), Deliver(html, junit, as_json)
        )

    app.command(name, help=about)(command)


_add("resume", "Go on with a deploy whose process was interrupted or killed.")
_add("rollback", "Give traffic and clients back to the old colour, until the moment at which it is removed.")
_add("abort", "End a deploy: undone before traffic was switched, left as it is afterwards.")
app.command()(status)
app.command()(history)
app.command()(verdict)
