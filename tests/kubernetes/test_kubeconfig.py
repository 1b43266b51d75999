"""Which API server is meant, and as whom it is asked: kubeconfigs, a pod's service account, and what is refused."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from trunkline.errors import SettingsError, StartError
from trunkline.kubernetes.access import Access, Pem, of_pod
from trunkline.kubernetes.credentials import FileToken, FixedToken, ProgramToken
from trunkline.kubernetes.kubeconfig import access_of, find_access
from trunkline.settings.secret import Secret

SERVER = "https://10.0.0.1:6443"


def config(cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": SERVER, **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "live", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
        "current-context": "live",
        **more,
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config"


def read(file: Path, found: dict[str, Any], context: str = "") -> Access:
    file.write_text(yaml.safe_dump(found))
    return access_of([file], context)


async def token_of(access: Access) -> str:
    return (await access.credentials.token()).reveal()


async def test_the_current_context_names_server_user_and_namespace(file: Path) -> None:
    found = read(file, config({"tls-server-name": "kubernetes"}, {"token": "t0ken"}))
    assert (found.server, found.namespace, found.server_name, found.verify) == (SERVER, "shop", "kubernetes", True)
    assert await token_of(found) == "t0ken"
    assert "t0ken" not in repr(found)


async def test_over_plain_http_no_token_is_sent(file: Path) -> None:
    """As with kubectl: a proxy on this machine (`kubectl proxy`) adds its own, and everybody else would read it."""
    found = read(file, config({"server": "http://127.0.0.1:8001/"}, {"token": "t0ken"}))
    assert (found.server, await token_of(found)) == ("http://127.0.0.1:8001", "")


async def test_another_context_can_be_chosen(file: Path) -> None:
    contexts = [{"name": "live", "context": {"cluster": "x"}}, {"name": "test", "context": {"cluster": "c"}}]
    found = read(file, config(contexts=contexts), "test")
    assert (found.namespace, await token_of(found)) == ("default", "")


async def test_paths_are_relative_to_their_file_and_data_counts_first(file: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from a file\n")
    (tmp_path / "ca.pem").write_bytes(b"from a file")
    found = read(file, config({"certificate-authority": "ca.pem"}, {"tokenFile": "token"}))
    assert isinstance(found.credentials, FileToken)
    assert (found.ca.read(), await token_of(found)) == (b"from a file", "from a file")
    data = base64.b64encode(b"from data").decode()
    user = {"client-certificate-data": data, "client-key-data": data, "client-key": "nowhere"}
    found = read(file, config({"certificate-authority": "ca.pem", "certificate-authority-data": data}, user))
    assert (found.ca.read(), found.certificate.read(), found.key.read()) == (b"from data",) * 3
    assert "from data" not in repr(found)


async def test_of_several_files_the_first_holds(tmp_path: Path) -> None:
    """Each adds what the ones before it do not name."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text(yaml.safe_dump({"users": [{"name": "u", "user": {"token": "first"}}], "current-context": "live"}))
    second.write_text(yaml.safe_dump(config(user={"token": "second"}) | {"current-context": "other"}))
    found = find_access(None, "", {"KUBECONFIG": f"{first}:{tmp_path / 'missing'}:{second}"})
    assert (found.server, await token_of(found)) == (SERVER, "first")


async def test_a_program_hands_out_tokens(file: Path) -> None:
    """As those of cloud providers do; it is asked in the version that the kubeconfig names."""
    printed = '{"kind": "ExecCredential", "status": {"token": VERSION + " " + PROFILE}}'
    script = (
        "import json, os; asked = json.loads(os.environ['KUBERNETES_EXEC_INFO']);"
        f"VERSION, PROFILE = asked['apiVersion'], os.environ['PROFILE']; print(json.dumps({printed}))"
    )
    program = {
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "command": sys.executable,
        "args": ["-c", script],
        "env": [{"name": "PROFILE", "value": "live"}],
    }
    found = read(file, config(user={"exec": program}))
    assert isinstance(found.credentials, ProgramToken)
    assert await token_of(found) == "client.authentication.k8s.io/v1beta1 live"


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (config({"server": "10.0.0.1"}), "the server '10.0.0.1' is no URL with https:// or http://"),
        (config({"proxy-url": "http://proxy"}), "proxy-url is not supported"),
        (config({"certificate-authority-data": "!"}), "certificate-authority-data is not base64"),
        (config(user={"username": "admin", "password": "x"}), "username and auth-provider are not supported"),
        (config(user={"auth-provider": {"name": "gcp"}}), "username and auth-provider are not supported"),
        (config(user={"client-key": "key.pem"}), "a client certificate needs its key"),
        (config(users=[]), "context live names the user 'u', which is not there"),
        (config(clusters=None), "context live names the cluster 'c', which is not there"),
        (config(**{"current-context": ""}), "has no current-context; set kubernetes.context"),
        (config(**{"current-context": "x"}), "'x' cannot be used; .* has the contexts live"),
        (config(users="x"), r"Expected `array`, got `str`"),
    ],
)
def test_what_cannot_be_used_is_named(file: Path, found: dict[str, Any], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        read(file, found)


def test_a_file_that_is_no_yaml_shows_none_of_its_lines(file: Path) -> None:
    """They may be secrets."""
    file.write_text("users:\n- token: {s3cret\nx: }")
    with pytest.raises(SettingsError, match=r"it is not YAML \(line \d\)") as refused:
        access_of([file], "")
    assert "s3cret" not in str(refused.value)
    with pytest.raises(SettingsError, match="it cannot be read: No such file or directory"):
        access_of([file.with_name("missing")], "")


async def test_a_pod_uses_its_service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token is read for each request, because the kubelet renews it."""
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    assert of_pod(environ, tmp_path) is None
    (tmp_path / "token").write_text("first")
    (tmp_path / "namespace").write_text("live\n")
    (tmp_path / "ca.crt").write_text("pem")
    found = of_pod(environ, tmp_path)
    assert found is not None
    assert (found.server, found.namespace, found.ca.read()) == ("https://[fd00::1]:6443", "live", b"pem")
    first = await found.credentials.token()
    assert not await found.credentials.refused(first)
    (tmp_path / "token").write_text("second")
    assert await found.credentials.refused(first)
    assert await token_of(found) == "second"
    assert of_pod({}, tmp_path) is None


async def test_null_is_the_same_as_nothing(file: Path) -> None:
    """As with kubectl: templates and people leave values empty."""
    user = {"token": None, "exec": {"command": sys.executable, "args": None, "env": None}}
    found = read(file, config({"certificate-authority": None}, user, preferences=None))
    assert (type(found.credentials), found.ca) == (ProgramToken, Pem())
    read(file, config(users=[{"name": "u", "user": None}]))


def test_a_home_directory_of_somebody_else_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of root in HOME of a service, whose files cannot even be looked for."""

    def refused(path: Any, **_: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.stat", refused)
    with pytest.raises(StartError, match="no Kubernetes API server is known"):
        find_access(None, "", {}, home=tmp_path)
    with pytest.raises(SettingsError, match="cannot be read"):
        find_access(None, "", {"KUBECONFIG": str(tmp_path / "missing")}, home=tmp_path)


def test_what_is_set_counts_before_the_home_directory_and_the_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In kubectl's order: the setting, KUBECONFIG, ~/.kube/config, the pod; without any the error names them."""
    in_pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    (tmp_path / "token").write_text("t0ken")
    monkeypatch.setattr("trunkline.kubernetes.kubeconfig.of_pod", lambda environ: of_pod(environ, tmp_path))
    files = {name: tmp_path / name / ".kube" / "config" for name in ("set", "variable", "home")}
    for name, path in files.items():
        path.parent.mkdir(parents=True)
        path.write_text(yaml.safe_dump(config({"server": f"https://{name}"})))
    environ = {"KUBECONFIG": str(files["variable"])}
    home = tmp_path / "home"
    assert find_access(files["set"], "", environ, home=home).server == "https://set"
    assert find_access(None, "", environ, home=home).server == "https://variable"
    assert find_access(None, "", in_pod, home=home).server == "https://home"
    assert find_access(None, "", in_pod, home=tmp_path).server == "https://10.0.0.1:443"
    with pytest.raises(StartError, match=r"no Kubernetes API server is known\. Set kubernetes\.kubeconfig"):
        find_access(None, "", {}, home=tmp_path)
    with pytest.raises(SettingsError, match="it cannot be read"):
        find_access(None, "", {"KUBECONFIG": str(tmp_path / "missing")}, home=home)


async def test_a_fixed_token_has_no_other() -> None:
    token = Secret("t0ken")
    assert not await FixedToken(token).refused(token)
