"""How a kernel setting is changed where this process runs. Pure.

A container has the network of its own, and some settings with it; all others are those of its host.
"""

from __future__ import annotations

from typing import Final

from trunkline.doctor.facts import Machine

SYSCTL_FILE: Final = "/etc/sysctl.d/90-trunkline.conf"

OF_CONTAINERS: Final = frozenset(
    {
        "net.core.somaxconn",
        "net.ipv4.tcp_max_syn_backlog",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
    }
)
"""Settings that each network namespace has for itself, among those of docs/tuning.md."""

SAFE_IN_PODS: Final = frozenset({"net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports"})
"""Those that Kubernetes lets every pod set."""


def set_to(machine: Machine, name: str, value: str) -> str:
    """What to do so that a kernel setting has a value, now and after a restart."""
    setting = f"{name}={value}" if " " not in value else f"{name}='{value}'"
    on_host = f"sysctl -w {setting}, and write it to {SYSCTL_FILE}"
    if machine.place == "host":
        return on_host
    if name not in OF_CONTAINERS:
        return f"on the host: {on_host}"
    if machine.place == "pod":
        allowed = "" if name in SAFE_IN_PODS else "; the kubelet has to allow it (--allowed-unsafe-sysctls)"
        return f"securityContext.sysctls of the pod: {setting}{allowed}"
    return f"start the container with the sysctl {setting} (Compose: sysctls, docker run: --sysctl)"
