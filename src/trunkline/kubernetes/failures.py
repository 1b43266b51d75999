"""What goes wrong between Trunkline and the API server. Pure.

    ApiFailed             anything: refused, unreachable, not understood
    ├── ApiUnreachable    no answer was had; the same request may succeed later
    ├── ApiExpired        410: the resource version or the page token is too old; list again
    ├── ApiForbidden      RBAC lacks a rule, which is named
    └── ApiNotFound       there is no such object

The text of a failure is for operators: it names the request, what the server said, and the next step.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from trunkline.errors import TrunklineError
from trunkline.kubernetes.objects import Resource, Status

LONGEST: Final = 300
"""Characters of a server's message that are shown."""

LONGEST_WAIT_S: Final = 60.0
"""A server that wants to be left alone for longer is asked again after this time."""

_USER: Final = re.compile(r'User "([^"]+)" cannot ')


class Rule(msgspec.Struct, frozen=True):
    """A rule of a Role: `verbs` on `resources`, such as `pods/log`, of an API group."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]

    def __str__(self) -> str:
        resources, verbs = ", ".join(self.resources), ", ".join(self.verbs)
        return f'apiGroups: ["{self.group}"], resources: [{resources}], verbs: [{verbs}]'


class Request(msgspec.Struct, frozen=True):
    """A request, as RBAC and error texts name it; the name is empty for a list."""

    verb: str
    resource: Resource
    namespace: str
    name: str = ""
    part: str = ""

    @property
    def rule(self) -> Rule:
        """The rule that allows it."""
        plural = f"{self.resource.plural}/{self.part}" if self.part else self.resource.plural
        return Rule(self.resource.group, (plural,), (self.verb,))

    def __str__(self) -> str:
        what = "/".join(part for part in (str(self.resource), self.name, self.part) if part)
        return f"{self.verb} {what} in namespace {self.namespace}"


class ApiFailed(TrunklineError):
    """A request to the API server failed.

    Attributes:
        why: the cause in words.
        status: HTTP status, 0 without an answer.
        retry_after_s: seconds after which the server wants to be asked again, 0 where it does not say.
    """

    def __init__(self, why: str, *, status: int = 0, retry_after_s: float = 0.0) -> None:
        super().__init__(why)
        self.why = why
        self.status = status
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.why


class ApiUnreachable(ApiFailed):
    """The API server could not be reached, or did not answer in time."""


class ApiExpired(ApiFailed):
    """The server no longer has the history that was asked for."""


class ApiNotFound(ApiFailed):
    """There is no such object."""


class ApiForbidden(ApiFailed):
    """RBAC does not allow it.

    Attributes:
        rule: what is missing.
    """

    def __init__(self, request: Request, user: str) -> None:
        self.rule = request.rule
        why = (
            f"RBAC does not let {user} {request}: its Role in namespace {request.namespace} lacks the rule {self.rule}"
        )
        super().__init__(why, status=403)


def failure_of(request: Request, code: int, body: bytes, retry_after: str = "") -> ApiFailed:
    """The failure that an answer stands for.

    Args:
        request: what was asked for.
        code: HTTP status of the answer, or of the status in an event.
        body: what came with it: a status as JSON, or anything.
        retry_after: the header of that name.
    """
    try:
        status = msgspec.json.decode(body, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # It comes from a proxy in front, or something else listens there.
        status = Status(message=body[:LONGEST].decode(errors="replace").strip())
    wait_s = int(retry_after) if retry_after.isdecimal() and len(retry_after) < 10 else 0
    if status.details is not None:
        wait_s = max(wait_s, status.details.retry_after_seconds)
    message = status.message[:LONGEST]
    why = f"the API server refused to {request}: {code}{f' {status.reason}' if status.reason else ''}"
    if message:
        why += f": {message}"
    match code:
        case 410:
            return ApiExpired(why, status=code)
        case 404:
            return ApiNotFound(why, status=code)
        case 403 if user := _USER.search(status.message):
            return ApiForbidden(request, user[1])
        case 401:
            why = f"the API server rejects the credentials ({request}): {message or 'Unauthorized'}"
            return ApiFailed(f"{why}; the token may have expired", status=code)
    return ApiFailed(why, status=code, retry_after_s=float(min(wait_s, LONGEST_WAIT_S)))
