from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from trunkline.errors import SettingsError, SettingsErrors
from trunkline.settings.load import describe, load
from trunkline.settings.secret import Secret

SECRET = "a-secret-of-more-than-thirty-two-bytes"


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    return file


def refused(file: Path | None = None, environ: dict[str, str] | None = None, **flags: object) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        load(file, environ or {}, {key.replace("__", "."): value for key, value in flags.items()})
    return caught.value


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_defaults() -> None:
    """Without any source every documented default holds."""
    loaded = load(None, {}, {})
    server, limits, channels = loaded.settings.server, loaded.settings.limits, loaded.settings.channels
    assert (server.host, server.port, server.max_connections) == ("0.0.0.0", 3001, None)
    assert (server.heartbeat_interval_ms, server.connection_timeout_ms) == (30_000, 300_000)
    assert server.message_bytes == 65_536
    assert (limits.rate_burst, limits.rate_per_s, limits.handshake_burst, limits.handshake_per_s) == (100, 10, 10, 5)
    assert (limits.http_per_s, limits.outbox_bytes, limits.outbox_grace_ms) == (10, 1 << 20, 5000)
    assert (channels.history, channels.history_age_s) == (1000, 300)
    assert set(loaded.sources.values()) == {"default"}


def test_later_sources_win(tmp_path: Path) -> None:
    """File beats default, environment beats file, a flag beats all; each value knows its source."""
    file = write(tmp_path, '[server]\nport = 1\nhost = "127.0.0.1"\ncolour = "green"\n')
    loaded = load(file, {"PORT": "2", "HOST": "::1"}, {"server.port": 3, "server.name": None})
    assert (loaded.settings.server.port, loaded.settings.server.host, loaded.settings.server.colour) == (
        3,
        "::1",
        "green",
    )
    assert loaded.sources["server.port"] == "command line"
    assert loaded.sources["server.host"] == "environment HOST"
    assert loaded.sources["server.colour"] == f"{file} line 4"
    assert loaded.sources["server.name"] == "default"


def test_plain_environment_names() -> None:
    """The documented names without prefix work, and the prefixed name wins over the plain one."""
    environ = {
        "PORT": "4000", "HOST": "127.0.0.1", "MAX_CONNECTIONS": "7", "HEARTBEAT_INTERVAL": "100",
        "CONNECTION_TIMEOUT": "200", "LOG_LEVEL": "DEBUG", "POD_NAME": "p", "POD_IP": "10.1.1.1", "NODE_NAME": "n",
        "TRUNKLINE_SERVER_PORT": "4001",
    }  # fmt: skip
    settings = load(None, environ, {}).settings
    assert settings.server.port == 4001
    assert (settings.server.max_connections, settings.server.heartbeat_interval_ms) == (7, 100)
    assert settings.server.connection_timeout_ms == 200
    assert settings.log.level == "debug"
    assert (settings.server.pod_name, settings.server.pod_ip, settings.server.node_name) == ("p", "10.1.1.1", "n")


def test_file_by_name_of_the_environment_or_in_the_working_directory(tmp_path: Path) -> None:
    """TRUNKLINE_CONFIG names the file; without it trunkline.toml of the working directory is read."""
    (tmp_path / "trunkline.toml").write_text("[server]\nport = 11\n")
    other = write(tmp_path, "[server]\nport = 12\n")
    assert load(None, {}, {}).settings.server.port == 11
    assert load(None, {"TRUNKLINE_CONFIG": str(other)}, {}).settings.server.port == 12


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    """A file that was asked for and is not there stops the start."""
    error = refused(tmp_path / "missing.toml")
    assert "missing.toml" in str(error)
    assert "cannot be read" in str(error)


def test_broken_toml_says_where(tmp_path: Path) -> None:
    """A file that is no TOML is refused with the place of the mistake."""
    assert "line 2" in str(refused(write(tmp_path, "[server]\nport = = 3\n")))


@pytest.mark.parametrize(
    ("text", "key", "nearest", "line"),
    [
        ("[server]\nprot = 3001\n", "server.prot", "server.port", 2),
        ("[sever]\nport = 3001\n", "sever", "server", 1),
        ("port = 3001\n", "port", "server.port", 1),
        ("[server]\n\nrate_per_s = 3\n", "server.rate_per_s", "limits.rate_per_s", 3),
        ("[limits]\nrate_burts = 3\n", "limits.rate_burts", "limits.rate_burst", 2),
        ('[[channels.rules]]\npattern = "a"\nsubscibe = "anyone"\n', "channels.rules[0].subscibe", "subscribe", 3),
    ],
)
def test_unknown_key(tmp_path: Path, text: str, key: str, nearest: str, line: int) -> None:
    """An unknown key is refused with the nearest known name and its line."""
    error = refused(write(tmp_path, text))
    assert (error.key, error.nearest) == (key, nearest)
    assert error.source.endswith(f"line {line}")


@pytest.mark.parametrize(
    ("text", "key", "allowed"),
    [
        ("[server]\nport = 65536\n", "server.port", "a whole number from 0 to 65,535"),
        ('[server]\nport = "http"\n', "server.port", "a whole number from 0 to 65,535"),
        ("[server]\nport = true\n", "server.port", "a whole number"),
        ('[server]\necho = "yes"\n', "server.echo", "true or false"),
        ('[log]\nlevel = "loud"\n', "log.level", "one of critical, debug, error, info, warning"),
        ('[server]\ndrain_ms = "soon"\n', "server.drain_ms", "30s"),
        ('[limits]\nexempt = ["10.0.0.0/33"]\n', "limits.exempt", "10.0.0.0/8"),
        ('[server]\nadvertise_network = "10.0.0.1/8"\n', "server.advertise_network", "10.0.0.0/8"),
        ('[server]\norigins = ["example.org"]\n', "server.origins", "https://app.example.org"),
        ('[bus]\nurl = "kafka://x"\n', "bus.url", "nats://"),
        ('[bus]\nprefix = "Upper.Case"\n', "bus.prefix", "1 to 32 of a-z"),
        ("[bus]\nreplicas = 0\n", "bus.replicas", "from 1"),
        ("[bus]\nkeep_s = 0\n", "bus.keep_s", "of at least 1"),
        ("[bus]\nmax_bytes = 10\n", "bus.max_bytes", "of at least 1,048,576"),
        ("[bus]\npublish_timeout_s = 0\n", "bus.publish_timeout_s", "from 0.05"),
        ('[[channels.rules]]\npattern = "a..b"\n', "channels.rules[0].pattern", "tokens joined by dots"),
        ('[[channels.rules]]\npattern = "a"\nsubscribe = "anybody"\n', "channels.rules[0].subscribe", "anyone"),
        ('[[channels.rules]]\npattern = "a"\nhistory = -1\n', "channels.rules[0].history", "from 0"),
        ('[server]\napp = "shop"\n', "server.app", "module:attribute"),
        ("[admin]\nport = 3001\n", "admin.port", "differ from server.port"),
    ],
)
def test_bad_value(tmp_path: Path, text: str, key: str, allowed: str) -> None:
    """A bad value is refused with key, value, what is allowed and the source."""
    error = refused(write(tmp_path, text))
    assert error.key == key
    assert error.value is not None
    assert allowed in error.allowed
    assert "settings.toml" in error.source


def test_unknown_environment_name() -> None:
    """A TRUNKLINE_ name that is no setting is refused, with the nearest one."""
    error = refused(environ={"TRUNKLINE_SERVER_PROT": "1"})
    assert (error.key, error.nearest, error.source) == ("TRUNKLINE_SERVER_PROT", "TRUNKLINE_SERVER_PORT", "environment")


def test_service_links_of_kubernetes_are_no_settings() -> None:
    """Variables that Kubernetes makes for a Service of our name neither stop the start nor set the port."""
    environ = {
        "TRUNKLINE_SERVER_PORT": "tcp://10.0.0.7:3001",
        "TRUNKLINE_SERVER_SERVICE_HOST": "10.0.0.7",
        "TRUNKLINE_SERVER_SERVICE_PORT": "3001",
        "TRUNKLINE_SERVER_SERVICE_PORT_HTTP": "3001",
        "TRUNKLINE_PORT": "tcp://10.0.0.7:3001",
        "TRUNKLINE_PORT_3001_TCP": "tcp://10.0.0.7:3001",
        "TRUNKLINE_PORT_3001_TCP_ADDR": "10.0.0.7",
    }
    assert load(None, environ, {}).settings.server.port == 3001


def test_environment_lists_booleans_and_empty_values() -> None:
    """Lists are comma separated, booleans are words, empty is not given except for a list, which it empties."""
    environ = {
        "TRUNKLINE_SERVER_ORIGINS": "https://a.example, https://*.b.example:8443",
        "TRUNKLINE_SERVER_ECHO": "false",
        "TRUNKLINE_LIMITS_EXEMPT": "",
        "MAX_CONNECTIONS": "",
        "TRUNKLINE_CHANNELS_RULES": '[{"pattern": "news.*", "subscribe": ["role=reader", "role=admin"], "history": 5}]',
    }
    settings = load(None, environ, {}).settings
    assert settings.server.origins == ("https://a.example", "https://*.b.example:8443")
    assert settings.server.echo is False
    assert settings.limits.exempt == ()
    assert settings.server.max_connections is None
    assert settings.channels.rules[0].subscribe == ("role=reader", "role=admin")
    assert settings.channels.rules[0].history == 5


def test_units() -> None:
    """Durations and sizes may carry a unit; a bare number is in the unit of the name."""
    environ = {
        "HEARTBEAT_INTERVAL": "1.5s",
        "TRUNKLINE_SERVER_MESSAGE_BYTES": "16KiB",
        "TRUNKLINE_CHANNELS_HISTORY_AGE_S": "5m",
        "TRUNKLINE_BUS_MAX_BYTES": "2GB",
        "TRUNKLINE_LIMITS_OUTBOX_GRACE_MS": "250",
    }
    settings = load(None, environ, {}).settings
    assert settings.server.heartbeat_interval_ms == 1500
    assert settings.server.message_bytes == 16_384
    assert settings.channels.history_age_s == 300.0
    assert settings.bus.max_bytes == 2_000_000_000
    assert settings.limits.outbox_grace_ms == 250
    assert refused(environ={"TRUNKLINE_LIMITS_RATE_PER_S": "5s"}).key == "limits.rate_per_s"


def test_an_unknown_flag_is_refused() -> None:
    """A flag must name a setting."""
    assert refused(server__prot=1).nearest == "server.port"


@pytest.mark.parametrize(
    ("environ", "key"),
    [
        ({"TRUNKLINE_AUTH_ALGORITHMS": "HS256"}, "auth.algorithms"),
        ({"TRUNKLINE_AUTH_ALGORITHMS": "RS256"}, "auth.algorithms"),
        ({"TRUNKLINE_AUTH_ALGORITHMS": "RS256", "TRUNKLINE_AUTH_SECRET": SECRET}, "auth.algorithms"),
        ({"TRUNKLINE_AUTH_ALGORITHMS": "none"}, "auth.algorithms"),
        ({"TRUNKLINE_AUTH_SECRET": SECRET}, "auth.algorithms"),
        ({"TRUNKLINE_AUTH_REQUIRED": "true"}, "auth.required"),
        ({"TRUNKLINE_AUTH_ALGORITHMS": "HS256", "TRUNKLINE_AUTH_SECRET": "short"}, "auth.secret"),
        ({"TRUNKLINE_AUTH_ALGORITHMS": "ES256", "TRUNKLINE_AUTH_JWKS_URL": "http://keys.example/"}, "auth.jwks_url"),
        ({"TRUNKLINE_ADMIN_TOKEN": "short"}, "admin.token"),
        ({"TRUNKLINE_ADMIN_TOKEN": SECRET, "TRUNKLINE_ADMIN_TOKEN_FILE": "x"}, "admin.token_file"),
        ({"TRUNKLINE_ADMIN_TOKENS": '[{"name":"a","scopes":[],"file":"x"}]'}, "admin.tokens[0].scopes"),
        ({"TRUNKLINE_ADMIN_TOKENS": '[{"name":"a","scopes":["read"]}]'}, "admin.tokens[0]"),
        ({"TRUNKLINE_ADMIN_TOKENS": '[{"name":"a","scopes":["read"],"token":"short"}]'}, "admin.tokens[0].token"),
        (
            {"TRUNKLINE_ADMIN_TOKENS": f'[{{"name":"a","scopes":["read"],"file":"x","token":"{SECRET}"}}]'},
            "admin.tokens[0]",
        ),
        (
            {"TRUNKLINE_ADMIN_TOKENS": str([{"name": "a", "scopes": ["read"], "file": "x"}] * 2).replace("'", '"')},
            "admin.tokens[1].name",
        ),
        ({"TRUNKLINE_ADMIN_TOKENS": '[{"name":"a","scopes":["read"],"file":1}]'}, "admin.tokens[0].file"),
        ({"TRUNKLINE_ADMIN_TOKENS": '[{"name":"a","scopes":["red"],"file":"x"}]'}, "admin.tokens[0].scopes"),
        ({"TRUNKLINE_ADMIN_TOKENS": '[{"name":"a","scopes":["read"],"fil":"x"}]'}, "admin.tokens[0].fil"),
        ({"TRUNKLINE_ADMIN_TOKENS": '[{"scopes":["read"],"file":"x"}]'}, "admin.tokens[0].name"),
        ({"TRUNKLINE_ADMIN_TOKENS": '[{"name":"a"'}, "admin.tokens"),
        ({"TRUNKLINE_ADMIN_TOKENS": '[{"name":"admin.token","scopes":["read"],"file":"x"}]'}, "admin.tokens[0].name"),
        ({"PORT": "65535"}, "admin.port"),
        ({"TRUNKLINE_BALANCER_PORT": "65535"}, "balancer.admin_port"),
        ({"TRUNKLINE_BALANCER_PORT": "8000", "TRUNKLINE_BALANCER_ADMIN_PORT": "8000"}, "balancer.admin_port"),
        ({"TRUNKLINE_BALANCER_AFFINITY": "path:0"}, "balancer.affinity"),
        ({"TRUNKLINE_BALANCER_HEALTH": "websocket"}, "balancer.health_path"),
        ({"TRUNKLINE_BALANCER_REBALANCE_UNTIL": "1.5"}, "balancer.rebalance_until"),
        ({"TRUNKLINE_BALANCER_EJECT_MS": "90s"}, "balancer.eject_ms"),
        ({"TRUNKLINE_BALANCER_TLS_KEY_FILE": "key.pem"}, "balancer.tls_key_file"),
        ({"TRUNKLINE_BALANCER_TLS_CLIENT_KEY_FILE": "key.pem"}, "balancer.tls_client_key_file"),
        ({"TRUNKLINE_BALANCER_MODE": "steer", "TRUNKLINE_BALANCER_WORKERS": "2"}, "balancer.workers"),
        (
            {
                "TRUNKLINE_BALANCER_STICKY_COOKIE": "lb",
                "TRUNKLINE_BALANCER_STICKY_SAME_SITE": "none",
                "TRUNKLINE_BALANCER_STICKY_SECURE": "false",
            },
            "balancer.sticky_same_site",
        ),
        (
            {"TRUNKLINE_BALANCER_STICKY_COOKIE": "__Host-lb", "TRUNKLINE_BALANCER_STICKY_SECURE": "false"},
            "balancer.sticky_cookie",
        ),
        (
            {"TRUNKLINE_BALANCER_GROUPS": '[{"name": "blue", "weight": 1}, {"name": "blue", "weight": 2}]'},
            "balancer.groups[1].name",
        ),
    ],
)
def test_settings_that_exclude_each_other(environ: dict[str, str], key: str) -> None:
    """Settings that only make sense together are checked together, and no secret is quoted."""
    error = refused(environ=environ)
    assert error.key == key
    assert SECRET not in str(error)
    assert "short" not in str(error)


def test_all_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """File, environment, flags and the checks of single values report together; conflicts wait for usable values."""
    file = tmp_path / "t.toml"
    file.write_text(
        '[server]\nprot = 1\nport = "x"\ntrusted_proxies = ["ten"]\n[bogus]\n[admin]\nport = 3001\n', encoding="utf-8"
    )
    with pytest.raises(SettingsErrors) as caught:
        load(file, {"TRUNKLINE_NO_SUCH": "1", "TRUNKLINE_BUS_MAX_BYTES": "lots"}, {"server.colour": "red" * 99})
    assert [error.key for error in caught.value.errors] == [
        "server.prot", "server.port", "bogus", "TRUNKLINE_NO_SUCH", "bus.max_bytes", "server.colour",
        "server.trusted_proxies",
    ]  # fmt: skip
    lines = str(caught.value).splitlines()
    assert lines[0] == "7 settings cannot be used:"
    assert (
        lines[1]
        == f"  setting server.prot ({file} line 2) cannot be used; there is no such setting; did you mean server.port?"
    )
    assert caught.value.key == "server.prot"
    conflicts = {"TRUNKLINE_SERVER_PORT": "4000", "TRUNKLINE_ADMIN_PORT": "4000", "TRUNKLINE_BALANCER_EJECT_MS": "1h"}
    with pytest.raises(SettingsErrors) as caught:
        load(None, conflicts, {})
    assert [error.key for error in caught.value.errors] == ["admin.port", "balancer.eject_ms"]


@pytest.mark.parametrize(
    "table",
    [
        f'token = "{SECRET}"', f'name = "a"\nscopes = ["red"]\ntoken = "{SECRET}"',
        f'name = "a"\nscopes = ["read"]\ntokn = "{SECRET}"', f'name = 1\nscopes = ["read"]\ntoken = "{SECRET}"',
        f'name = "a"\nscopes = ["read"]\ntoken = ["{SECRET}"]',
    ],
)  # fmt: skip
def test_errors_do_not_quote_tables_with_secrets(tmp_path: Path, table: str) -> None:
    """Wherever the table does not fit, in a file and in the environment."""
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, f"[[admin.tokens]]\n{table}\n"), {}, {})
    assert SECRET not in f"{caught.value} {caught.value.value}"
    text = json.dumps(tomllib.loads(f"[[x]]\n{table}")["x"])
    with pytest.raises(SettingsError) as caught:
        load(None, {"TRUNKLINE_ADMIN_TOKENS": text}, {})
    assert SECRET not in f"{caught.value} {caught.value.value}"


def test_secrets_do_not_print() -> None:
    """Neither the settings' repr nor the rows nor a formatted text hold a secret or the password of a URL."""
    environ = {
        "TRUNKLINE_AUTH_ALGORITHMS": "HS256",
        "TRUNKLINE_AUTH_SECRET": SECRET,
        "TRUNKLINE_BUS_URL": "nats://user:hunter2@bus:4222,nats://token@bus2:4222",
        "TRUNKLINE_ADMIN_TOKENS": f'[{{"name":"ci","scopes":["read"],"token":"x{SECRET}"}}]',
    }
    loaded = load(None, environ, {})
    assert loaded.settings.auth.secret == Secret(SECRET)
    assert loaded.settings.auth.secret is not None
    assert loaded.settings.auth.secret.reveal() == SECRET
    shown = json.dumps([row._asdict() for row in loaded.rows()])
    for text in (repr(loaded.settings), shown, f"{loaded.settings.auth.secret}"):
        assert SECRET not in text
    assert "hunter2" not in shown
    assert "token@" not in shown
    assert "nats://***@bus:4222,nats://***@bus2:4222" in shown
    with pytest.raises(TypeError):
        str(loaded.settings.auth.secret)


def test_a_secret_of_the_wrong_type_is_not_quoted(tmp_path: Path) -> None:
    """An error about a secret names the key alone."""
    error = refused(write(tmp_path, "[auth]\nsecret = 123456789\n"))
    assert error.key == "auth.secret"
    assert "123456789" not in str(error)


def test_the_password_of_a_bad_url_is_not_quoted() -> None:
    """An error about a URL masks who it logs in as."""
    error = refused(environ={"TRUNKLINE_BUS_URL": "kafka://user:hunter2@bus"})
    assert "hunter2" not in str(error)


def test_describe_has_help_for_every_setting() -> None:
    """Each setting has one line of help that ends as a sentence, and a prefixed environment name."""
    rows = describe()
    assert len(rows) == len({row.key for row in rows}) > 60
    for row in rows:
        assert row.help.endswith("."), row
        assert "\n" not in row.help
        assert row.allowed, row
        assert row.environment[0] == "TRUNKLINE_" + row.key.upper().replace(".", "_")


def test_every_setting_survives_a_debug_allocator() -> None:
    """No field's type is one that corrupts memory in msgspec; such a process would end by a signal."""
    program = (
        "import msgspec, gc\nfrom trunkline.settings import load as config\nconfig.describe()\n"
        "for section in config.SECTIONS.values():\n    msgspec.convert({}, section)\n"
        "config.load(None, {'TRUNKLINE_CHANNELS_RULES': '[{\"pattern\": \"a\"}]'}, {})\ngc.collect()\n"
    )
    done = subprocess.run([sys.executable, "-X", "dev", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
