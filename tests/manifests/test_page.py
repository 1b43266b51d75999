"""docs/kubernetes.md and the Job of a deploy: commands that work, objects that Kubernetes takes, real names."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import yaml
from typer.testing import CliRunner

from tests.manifests.test_objects import MADE_BY_HAND, NEWEST, referred
from tests.support import ROOT
from tests.support.manifests.objects import KUSTOMIZE, OVERLAYS, container, kustomized, objects
from tests.support.manifests.programs import program, run
from trunkline.cli import commands
from trunkline.nats.address import parse_address
from trunkline.settings.load import load
from trunkline.settings.reading.source import variables
from trunkline.settings.sections import PLAIN_ENVIRONMENT, SECTIONS

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
JOB = yaml.safe_load((KUSTOMIZE / "jobs" / "deploy.yaml").read_text())


def made_secrets() -> dict[str, dict[str, str]]:
    """The Secrets that the page's commands make, by name; kubectl prints them in place of sending them."""
    (commands_text,) = re.findall(r"<!-- secrets: run by a test -->\n\n```sh\n(.*?)```", PAGE, re.DOTALL)
    script = f'kubectl() {{ "{program("kubectl")}" "$@" --dry-run=client -o yaml; echo ---; }}\n{commands_text}'
    script = script.replace("kubectl apply -f deploy/kubernetes/base/namespace.yaml\n", "")
    done = subprocess.run(["bash", "-euc", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {
        each["metadata"]["name"]: {name: base64.b64decode(value).decode() for name, value in each["data"].items()}
        for each in yaml.safe_load_all(done.stdout)
        if each
    }


def test_the_commands_make_the_secrets_that_pods_want() -> None:
    """Every key that a pod takes; passwords of the addresses are those that NATS gets, and begin with a letter."""
    made = made_secrets()
    assert made.keys() == MADE_BY_HAND
    for overlay in OVERLAYS:
        for name, key in re.findall(r"key: (\S+)\n\s+name: (trunkline-\S+)", kustomized(overlay)):
            assert name in made[key], (overlay, name, key)
    passwords = made["trunkline-nats-passwords"]
    assert all(re.fullmatch(r"p[0-9a-f]{48}", each) for each in passwords.values())
    assert len(set(passwords.values())) == len(passwords)
    for user, url in made["trunkline-nats"].items():
        address = parse_address(url)
        assert (address.user, address.password) == (user, passwords[f"{user.upper()}_PASSWORD"])
        assert address.servers == ("nats://trunkline-nats:4222",)
    assert len(made["trunkline-admin"]["token"]) == 64
    files = ("base/nats/nats.conf", "base/nats/accounts.conf", "components/three-nats/cluster.conf")
    conf = "".join((KUSTOMIZE / file).read_text() for file in files)
    assert set(re.findall(r"\$(\w+_PASSWORD)", conf)) == passwords.keys()


def test_kubernetes_takes_the_job() -> None:
    """It runs with the account of deploys, which may reach what the network policies let a deploy reach."""
    kubernetes_validate.validate(JOB, NEWEST, strict=True)
    template = JOB["spec"]["template"]
    found = objects(kustomized("production"))
    assert ("ServiceAccount", template["spec"]["serviceAccountName"]) in found
    assert {name for kind, name in referred(template) if kind == "Secret"} <= MADE_BY_HAND
    selector = found["NetworkPolicy", "trunkline-deploy"]["spec"]["podSelector"]["matchLabels"]
    assert selector.items() <= template["metadata"]["labels"].items()


def test_the_job_runs_a_command_that_is_there() -> None:
    own = container(JOB["spec"]["template"], "deploy")
    assert CliRunner().invoke(commands.app, [*own["args"], "--help"]).exit_code == 0
    assert CliRunner().invoke(commands.app, [*own["args"], "--no-such-option"]).exit_code == 2
    load(None, {each["name"]: each["value"] for each in own["env"] if "value" in each}, {})
    real = {name for each in variables(SECTIONS, PLAIN_ENVIRONMENT).values() for name in each.environment}
    assert {each["name"] for each in own["env"]} <= real
    address = next(each for each in own["args"] if each.startswith("--balancer="))
    service = objects(kustomized("production"))["Service", "trunkline-balancer"]
    (admin,) = (port["port"] for port in service["spec"]["ports"] if port["name"] == "admin")
    assert address == f"--balancer=http://trunkline-balancer:{admin}"


def test_every_directory_is_on_the_page() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)
    there = {"base", "jobs/deploy.yaml"}
    there |= {f"components/{each.name}" for each in (KUSTOMIZE / "components").iterdir()}
    there |= {f"overlays/{each.name}" for each in (KUSTOMIZE / "overlays").iterdir()}
    assert there <= set(rows)


def test_a_relay_shows_clients_its_data_port_alone() -> None:
    """The component that no overlay has; its Service is the only one for the outside."""
    (service,) = objects(run("kubectl", "kustomize", KUSTOMIZE / "components" / "relay")).values()
    kubernetes_validate.validate(service, NEWEST, strict=True)
    assert service["spec"]["selector"].items() <= {
        "app.kubernetes.io/name": "trunkline", "app.kubernetes.io/component": "balancer",
    }.items()  # fmt: skip
    assert [port["targetPort"] for port in service["spec"]["ports"]] == ["http"]
    assert service["spec"]["externalTrafficPolicy"] == "Local"


def test_nats_can_be_left_out(tmp_path: Path) -> None:
    """The patch of the page takes all of it away."""
    (patches,) = re.findall(r"```yaml\n(patches:.*?)```", PAGE, re.DOTALL)
    shutil.copytree(KUSTOMIZE, tmp_path, dirs_exist_ok=True)
    directory = tmp_path / "overlays" / "mine"
    directory.mkdir()
    (directory / "kustomization.yaml").write_text(f"resources: [../../base]\n{patches}")
    found = objects(run("kubectl", "kustomize", directory))
    assert not [key for key in found if key[0] != "ConfigMap" and "nats" in key[1]]
    assert ("Deployment", "trunkline-blue") in found
