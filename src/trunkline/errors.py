"""Every exception of Trunkline, drawn by whose fault it was. Pure.

    TrunklineError
    ├── SettingsError        the operator wrote something that cannot be used (exit code 2)
    │   └── SettingsErrors   several settings at once
    ├── StartError           this machine lacks something: a port, a part, a file (exit code 2)
    ├── BusError
    │   ├── BusUnavailable   the bus cannot be reached now; the same call may succeed later
    │   │   ├── BusCannotStore   it is reached and does not store; its operator has to do something
    │   │   ├── BusForbids       it does not allow its user to do this
    │   │   └── NobodyListens    a plain message has no receiver
    │   ├── MessageTooLarge  the bus takes no message of this size
    │   └── Changed          somebody else wrote to the fleet's store first
    ├── ProtocolViolation    the peer broke RFC 6455 or a limit; carries the close code to answer with
    ├── Refused              a handler or a rule refuses a handshake; carries the HTTP status
    ├── MessageError         a client's message cannot be served; becomes an `error` message
    └── ClientGone           the application used a client whose connection has ended

Exceptions hold fields and render themselves, so that logs, HTTP answers and command lines need no string parsing.
"""

from __future__ import annotations

from collections.abc import Sequence


class TrunklineError(Exception):
    """The root: catch it to catch everything Trunkline raises on purpose."""


class SettingsError(TrunklineError):
    """A setting is unknown or has a value that cannot be used.

    Attributes:
        key: the full name as its source spells it, e.g. `server.message_bytes`.
        value: the offending value as text, or None when the key itself is the problem or the value is secret.
        allowed: what would have been accepted, in words.
        nearest: the closest known key, if one is close.
        source: where the setting came from, e.g. `trunkline.toml` or `environment PORT`.
    """

    def __init__(
        self, key: str, *, value: str | None = None, allowed: str = "", nearest: str | None = None, source: str = ""
    ) -> None:
        super().__init__(key)
        self.key = key
        self.value = value
        self.allowed = allowed
        self.nearest = nearest
        self.source = source

    def __str__(self) -> str:
        where = f" ({self.source})" if self.source else ""
        if self.value is not None:
            text = f"setting {self.key}{where}: {self.value!r} cannot be used"
        else:
            text = f"setting {self.key}{where} cannot be used"
        if self.allowed:
            text += f"; {self.allowed}"
        if self.nearest:
            text += f"; did you mean {self.nearest}?"
        return text


class SettingsErrors(SettingsError):
    """Several settings cannot be used; the attributes are those of the first.

    Attributes:
        errors: one for each, at least one.
    """

    def __init__(self, errors: Sequence[SettingsError]) -> None:
        first = errors[0]
        super().__init__(
            first.key, value=first.value, allowed=first.allowed, nearest=first.nearest, source=first.source
        )
        self.errors = tuple(errors)

    def __str__(self) -> str:
        return "\n  ".join([f"{len(self.errors)} settings cannot be used:", *map(str, self.errors)])


class StartError(TrunklineError):
    """The process cannot start on this machine.

    Attributes:
        what: the thing that is missing or taken.
        next_step: what the operator can do about it.
    """

    def __init__(self, what: str, next_step: str) -> None:
        super().__init__(what)
        self.what = what
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.what}. {self.next_step}"


class BusError(TrunklineError):
    """Something went wrong between a node and its bus."""


class BusUnavailable(BusError):
    """The bus cannot be reached at the moment; nothing was acknowledged, and a later try may succeed.

    Attributes:
        sent: whether a publication was sent, so that it may be stored all the same: another try may do it twice.
    """

    sent = False


class BusCannotStore(BusUnavailable):
    """The bus answers and does not store publications, for lack of room or of a store; nothing was acknowledged."""


class BusForbids(BusUnavailable):
    """The bus does not allow the user that logged in to do this; its operator has to give it the right."""


class NobodyListens(BusUnavailable):
    """The bus was reached, and nobody listens on the subject that was asked."""


class MessageTooLarge(BusError):
    """A message is larger than the bus takes.

    Attributes:
        size: of the message with what the bus adds, bytes.
        limit: what the bus takes, bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(size, limit)
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return f"a message of {self.size:,} bytes is larger than NATS takes ({self.limit:,}); raise its max_payload"


class Changed(BusError):
    """A key of the fleet's store has another revision than its writer expected; nothing was written.

    Attributes:
        revision: that it has now, 0 for a key that is not there; None when that is not known.
    """

    def __init__(self, key: str, expected: int, revision: int | None = None) -> None:
        super().__init__(key, expected, revision)
        self.key = key
        self.expected = expected
        self.revision = revision

    def __str__(self) -> str:
        now = "another one" if self.revision is None else self.revision
        return f"{self.key} has changed: expected revision {self.expected}, found {now}"


class ProtocolViolation(TrunklineError):
    """The peer broke the WebSocket protocol or one of our limits.

    Attributes:
        code: the close code to answer with (RFC 6455 section 7.4).
        reason: a short text for the close frame.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.reason} (close code {self.code})"


class Refused(TrunklineError):
    """A handshake is refused with a plain HTTP answer. Application code raises it to turn a client away.

    Args:
        status: the HTTP status, 400 to 599.
        reason: one line for the client; it must hold nothing internal.
        retry_after_s: seconds for the `Retry-After` header, when trying again makes sense.
        label: the short word under which `ws_connections_failed_total{reason}` counts it.
    """

    def __init__(
        self, status: int = 403, reason: str = "refused", *, retry_after_s: float | None = None, label: str = "refused"
    ) -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"a refusal needs an HTTP status from 400 to 599, not {status}")
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.label = label

    def __str__(self) -> str:
        return f"handshake refused with {self.status}: {self.reason}"


class MessageError(TrunklineError):
    """A client's message cannot be served; the client gets it as an `error` message and stays connected.

    Attributes:
        code: one of the error codes of the protocol, e.g. `FORBIDDEN`.
        message: text for the client: names the field and the limit, never an internal.
        temporary: whether the same message may succeed later.
        retry_after_ms: when to try again, if that is known.
    """

    def __init__(self, code: str, message: str, *, temporary: bool = False, retry_after_ms: int | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.temporary = temporary
        self.retry_after_ms = retry_after_ms

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class ClientGone(TrunklineError):
    """The connection of this client has ended.

    Attributes:
        code: the close code, 1006 when there was no close frame.
        reason: the close reason.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"the client's connection has ended with {self.code} {self.reason!r}"
