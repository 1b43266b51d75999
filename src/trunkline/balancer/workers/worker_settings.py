"""The settings of a worker, and their way over its link; a worker loads this and not the balancer. Pure."""

from __future__ import annotations

from pathlib import Path

import msgspec

from trunkline.settings.balancer import BalancerSettings
from trunkline.settings.sections import LogSettings


class WorkerSettings(msgspec.Struct, frozen=True):
    """What a worker needs to know; it holds no secret."""

    balancer: BalancerSettings
    log: LogSettings


def encode_settings(settings: WorkerSettings) -> bytes:
    """Settings for the way to a worker."""
    return msgspec.json.encode(settings, enc_hook=str)


def decode_settings(data: bytes) -> WorkerSettings:
    """Settings as a worker takes them."""
    return msgspec.json.decode(data, type=WorkerSettings, dec_hook=lambda kind, value: Path(value))
