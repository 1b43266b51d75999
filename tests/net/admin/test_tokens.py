"""Tokens of admin ports: what the settings name, two in a file, scopes, new ones in the place of the old."""

from __future__ import annotations

from pathlib import Path

import pytest

from trunkline.errors import StartError
from trunkline.net.admin.holders import Holder, Holders, refusal
from trunkline.net.admin.kept import kept_token
from trunkline.net.admin.routes import BALANCER_ROUTES, NODE_ROUTES, Route, route
from trunkline.net.admin.tokens import AdminTokens, read_tokens, token_for, token_for_all
from trunkline.settings.admin import SCOPES, AdminSettings, ScopedToken
from trunkline.settings.secret import Secret

OLD, NEW, READER = "the-old-token-0001", "the-new-token-0002", "the-readers-token-3"


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that are kept go into a directory of the test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def names(tokens: AdminTokens, *given: str) -> list[str | None]:
    """Whose each of these tokens is."""
    found = [tokens.of(f"Bearer {token}") for token in given]
    return [holder.name if holder is not None else None for holder in found]


def test_two_tokens_of_a_file_count_while_it_is_changed(tmp_path: Path) -> None:
    """Old and new; then the new alone. Scopes and name are those of the file's entry."""
    file = tmp_path / "ci"
    settings = AdminSettings(tokens=(ScopedToken("ci", ("read", "publish"), file),))
    file.write_text(OLD)
    tokens = AdminTokens(4001, read_tokens(settings))
    assert names(tokens, OLD, NEW) == ["ci", None]
    file.write_text(f"{NEW}\n{OLD}\n")
    tokens.replace(read_tokens(settings))
    assert names(tokens, OLD, NEW) == ["ci", "ci"]
    file.write_text(f"{NEW}\n")
    tokens.replace(read_tokens(settings))
    assert names(tokens, OLD, NEW) == [None, "ci"]
    assert [holder.scopes for holder in read_tokens(settings)] == [("read", "publish")]


@pytest.mark.parametrize("text", ["", " \n", "short", f"{OLD}\n{NEW}\n{READER}\n", f"{OLD}\nshort\n", None])
def test_a_bad_file_changes_nothing(tmp_path: Path, text: str | None) -> None:
    """It cannot be read into tokens, so there is nothing to replace the old ones with; the text is not in the error."""
    file = tmp_path / "token"
    file.write_text(OLD)
    settings = AdminSettings(token_file=file)
    tokens = AdminTokens(4001, read_tokens(settings))
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(StartError, match=str(file)) as refused:
        read_tokens(settings)
    assert not any(secret in f"{refused.value}" for secret in (OLD, NEW, "short\n"))
    assert names(tokens, OLD) == ["admin.token_file"]


def test_one_token_has_one_holder(tmp_path: Path) -> None:
    """Twice the same with different scopes could mean either; twice in one file is one token."""
    file = tmp_path / "token"
    file.write_text(f"{OLD}\n{OLD}\n")
    assert len(read_tokens(AdminSettings(token_file=file))) == 2
    twice = AdminSettings(token=Secret(OLD), tokens=(ScopedToken("ci", ("read",), file),))
    with pytest.raises(StartError, match=r"tokens of admin\.token and ci are the same"):
        read_tokens(twice)


def test_a_token_is_made_when_none_may_do_everything() -> None:
    """The commands of this machine need one; it goes, with its file, while the settings bring their own."""
    reader = Holder("prometheus", ("read",), Secret(READER))
    tokens = AdminTokens(4001, (reader,))
    tokens.keep()
    made = tokens.reveal()
    assert names(tokens, READER, made) == ["prometheus", "this machine"]
    assert kept_token(4001) == made
    tokens.replace((reader,))
    assert (tokens.reveal(), kept_token(4001)) == (made, made)
    tokens.replace((Holder("ops", ("operate", "publish", "read"), Secret(NEW)),))
    assert (tokens.reveal(), kept_token(4001)) == (NEW, None)
    assert names(tokens, made, READER) == [None, None]
    tokens.replace(())
    assert names(tokens, NEW, tokens.reveal()) == [None, "this machine"]
    assert kept_token(4001) == tokens.reveal() != made
    tokens.forget()
    assert kept_token(4001) is None


def test_nothing_is_kept_of_a_port_that_is_not_served() -> None:
    """A balancer that has moved off its port, or does not have it yet, leaves the file to the one that has it."""
    tokens = AdminTokens(4001, ())
    tokens.replace((Holder("ops", SCOPES, Secret(NEW)),))
    tokens.replace(())
    assert kept_token(4001) is None


def test_headers_that_carry_a_token() -> None:
    """The scheme in any case; whatever else is in the header, nobody sent it."""
    holders = Holders([Holder("a", SCOPES, Secret(OLD)), Holder("b", SCOPES, Secret("pässword-of-16-up"))])
    for header, name in [
        (f"Bearer {OLD}", "a"), (f"bearer   {OLD} ", "a"), ("BEARER pässword-of-16-up", "b"),
        (None, None), ("", None), (OLD, None), (f"Basic {OLD}", None), (f"Bearer {OLD}x", None),
        (f"Bearer {OLD[:-1]}", None), ("Bearer ", None), ("Bearer \udcff", None),
    ]:  # fmt: skip
        found = holders.of(header)
        assert (found.name if found is not None else None) == name, header


@pytest.mark.parametrize("wanted", [*NODE_ROUTES, *BALANCER_ROUTES], ids=lambda each: f"{each.method} {each.path}")
def test_only_the_scope_of_a_route_opens_it(wanted: Route) -> None:
    """403 names the scope that is missing, the holder and what it has; without a holder it is 401."""
    for scope in SCOPES:
        found = refusal(Holder("ci", (scope,), Secret(OLD)), wanted)
        if scope == wanted.scope:
            assert found is None
        else:
            assert found is not None
            assert (found.status, found.problem.error) == (403, "forbidden")
            assert f"needs the scope {wanted.scope}; the token of ci has {scope}" in found.problem.message
    nobody = refusal(None, wanted)
    assert nobody is not None
    assert nobody.status == 401


def test_a_route_without_a_scope_is_found_at_the_start() -> None:
    """A handler that nobody gave a scope stops the start, not the night."""
    assert route(NODE_ROUTES, "POST", "/api/drain").scope == "operate"
    with pytest.raises(LookupError, match="PATCH /api/drain has no scope"):
        route(NODE_ROUTES, "PATCH", "/api/drain")


def test_the_token_that_a_command_sends(tmp_path: Path) -> None:
    """That of the settings for everything, else the first with the scopes whose file this user can read."""
    file, missing = tmp_path / "ops", tmp_path / "missing"
    file.write_text(f"{NEW}\n{OLD}\n")
    settings = AdminSettings(
        tokens=(
            ScopedToken("prometheus", ("read",), token=Secret(READER)),
            ScopedToken("gone", SCOPES, missing),
            ScopedToken("ops", ("operate", "read"), file),
        )
    )
    assert token_for(settings, "read") == READER
    assert token_for(settings, "read", "operate") == NEW
    assert token_for(settings, "publish") == ""
    assert token_for_all(settings) == ""
    assert token_for_all(AdminSettings(token_file=file)) == NEW
    assert token_for_all(AdminSettings(token=Secret(OLD))) == OLD
