"""Alerts on the file systems of the machines, from node_exporter. Pure.

Rules:

- Memory that only looks like a disk (tmpfs), images that are always full and never writable (squashfs, ISO) and the
  layers of containers are no disks: `_DISKS` leaves them out.
- A read-only or failing file system alerts when it was well in the last week: a medium that is read-only by intention,
  or that the exporter may never look at, is no news.
"""

from __future__ import annotations

from trunkline.monitor.rules.rule import Alert, Case

_DISKS = (
    '{fstype!~"tmpfs|devtmpfs|ramfs|overlay|aufs|squashfs|iso9660|udf|cramfs|erofs|autofs|nsfs|fuse.*",'
    'mountpoint!~"/(run|snap|var/lib/(docker|containers|containerd|kubelet))/.+"}'
)
_BY = "by (job, instance, device, fstype, mountpoint)"
_ON = "on (instance, device, mountpoint)"
_LABELS = {"scope": "machine"}
_GIGABYTE = 1_000_000_000

_VAR = {"job": "node", "instance": "m1:9100", "device": "/dev/vda1", "fstype": "ext4", "mountpoint": "/var"}
_TMP = {"job": "node", "instance": "m1:9100", "device": "tmpfs", "fstype": "tmpfs", "mountpoint": "/scratch"}
_CD = {"job": "node", "instance": "m1:9100", "device": "/dev/sr0", "fstype": "ext4", "mountpoint": "/media/tools"}


def _named(name: str, labels: dict[str, str]) -> str:
    return name + "{" + ",".join(f'{label}="{value}"' for label, value in labels.items()) + "}"


def _space(labels: dict[str, str], avail: str, size: int = 100 * _GIGABYTE) -> dict[str, str]:
    return {
        _named("node_filesystem_avail_bytes", labels): avail,
        _named("node_filesystem_size_bytes", labels): f"{size}x500",
        _named("node_filesystem_readonly", labels): "0x500",
    }


_SHARE = f"node_filesystem_avail_bytes{_DISKS} / node_filesystem_size_bytes"
_WRITABLE = "and node_filesystem_readonly == 0"

ALERTS: tuple[Alert, ...] = (
    Alert(
        name="TrunklineDiskSpaceLow",
        expr=f"{_SHARE} < 0.15 {_WRITABLE}",
        severity="warning",
        lasts="15m",
        summary="{{ $labels.mountpoint }} of {{ $labels.instance }} has {{ $value | humanizePercentage }} free",
        description="Nothing is wrong for users yet. Logs and metrics stop first, then databases, when it is full.",
        dashboard="trunkline-system",
        labels=_LABELS,
        cases=(
            Case(
                _space(_VAR, f"{12 * _GIGABYTE}x100"),
                "20m",
                _VAR | _LABELS,
                "/var of m1:9100 has 12% free",
                interval="15s",
            ),
            Case(_space(_VAR, f"{30 * _GIGABYTE}x100"), "20m"),
            Case(_space(_TMP, f"{1 * _GIGABYTE}x100"), "20m"),
        ),
    ),
    Alert(
        name="TrunklineDiskNearlyFull",
        expr=f"{_SHARE} < 0.05 {_WRITABLE}",
        severity="critical",
        lasts="5m",
        summary="{{ $labels.mountpoint }} of {{ $labels.instance }} has only {{ $value | humanizePercentage }} free",
        description="Programs that write there fail within hours or minutes: PostgreSQL stops, logs are lost.",
        dashboard="trunkline-system",
        labels=_LABELS,
        cases=(
            Case(_space(_VAR, f"{4 * _GIGABYTE}x100"), "10m", _VAR | _LABELS, "/var of m1:9100 has only 4% free"),
            Case(_space(_VAR, f"{6 * _GIGABYTE}x100"), "10m"),
            Case(_space(_TMP, "0x100"), "10m"),
            Case(
                _space(_CD, "0x100") | {_named("node_filesystem_readonly", _CD): "1x100"},
                "10m",
            ),
        ),
    ),
    Alert(
        name="TrunklineDiskFillsSoon",
        # An hour of history, for a prediction from a restore or an unpacking of minutes ago is none.
        expr=(
            f"predict_linear(node_filesystem_avail_bytes{_DISKS}[6h], 86400) < 0 "
            f"and {_SHARE} < 0.4 {_WRITABLE} and node_filesystem_avail_bytes offset 1h > 0"
        ),
        severity="warning",
        lasts="1h",
        summary=(
            "{{ $labels.mountpoint }} of {{ $labels.instance }} is full within a day at the pace of the last 6 hours: "
            "{{ $value | humanize1024 }}B would be left in 24 h"
        ),
        description="Nothing is wrong for users yet. Find what grows before it is full, mostly logs or a database.",
        dashboard="trunkline-system",
        labels=_LABELS,
        cases=(
            Case(
                _space(_VAR, f"{40 * _GIGABYTE}-{_GIGABYTE // 10}x60"),
                "129m",
                _VAR | _LABELS,
                "/var of m1:9100 is full within a day at the pace of the last 6 hours: -11.46GiB would be left in 24 h",
                interval="3m",
            ),
            # Falls as fast, but since it was started only.
            Case(_space(_VAR, f"{40 * _GIGABYTE}-{_GIGABYTE // 10}x60"), "100m", interval="3m"),
            Case(_space(_VAR, f"{40 * _GIGABYTE}-{_GIGABYTE // 10_000}x60"), "129m", interval="3m"),
            # Falls faster, but there is much left, and time to see it end.
            Case(_space(_VAR, f"{80 * _GIGABYTE}-{_GIGABYTE // 5}x60"), "129m", interval="3m"),
        ),
    ),
    Alert(
        name="TrunklineDiskInodesLow",
        # Some file systems have no fixed number and say 0.
        expr=(f"node_filesystem_files_free{_DISKS} / (node_filesystem_files > 0) < 0.1 {_WRITABLE}"),
        severity="warning",
        lasts="15m",
        summary=(
            "{{ $labels.mountpoint }} of {{ $labels.instance }} has {{ $value | humanizePercentage }} of inodes free"
        ),
        description="When none is free no file can be made, however much space is left. Look for many small files.",
        dashboard="trunkline-system",
        labels=_LABELS,
        cases=(
            Case(
                {
                    _named("node_filesystem_files_free", _VAR): "50000x100",
                    _named("node_filesystem_files", _VAR): "1000000x100",
                    _named("node_filesystem_readonly", _VAR): "0x100",
                },
                "20m",
                _VAR | _LABELS,
                "/var of m1:9100 has 5% of inodes free",
            ),
            Case(
                {
                    _named("node_filesystem_files_free", _VAR): "500000x100",
                    _named("node_filesystem_files", _VAR): "1000000x100",
                    _named("node_filesystem_readonly", _VAR): "0x100",
                },
                "20m",
            ),
            Case(
                {
                    _named("node_filesystem_files_free", _VAR): "0x100",
                    _named("node_filesystem_files", _VAR): "0x100",
                    _named("node_filesystem_readonly", _VAR): "0x100",
                },
                "20m",
            ),
        ),
    ),
    Alert(
        name="TrunklineDiskReadOnly",
        expr=(
            f"max {_BY} (node_filesystem_readonly{_DISKS}) == 1 "
            f"and {_ON} min {_BY} (min_over_time(node_filesystem_readonly{_DISKS}[7d])) == 0"
        ),
        severity="critical",
        lasts="2m",
        summary=(
            "{{ $labels.mountpoint }} of {{ $labels.instance }} has become read-only "
            "(readonly is {{ $value }}, was 0 in the last 7 days)"
        ),
        description="Linux mounts a file system read-only when its disk fails. Everything that writes there fails now.",
        dashboard="trunkline-system",
        labels=_LABELS,
        cases=(
            Case(
                {_named("node_filesystem_readonly", _VAR): "0x20 1x40"},
                "10m",
                _VAR | _LABELS,
                "/var of m1:9100 has become read-only (readonly is 1, was 0 in the last 7 days)",
            ),
            Case({_named("node_filesystem_readonly", _CD): "1x100"}, "10m"),
            Case({_named("node_filesystem_readonly", _TMP): "0x20 1x40"}, "10m"),
        ),
    ),
    Alert(
        name="TrunklineDiskErrors",
        # Newer exporters add the error's text as a label, so a series that fails is another than the one that was well.
        expr=(
            f"max {_BY} (node_filesystem_device_error{_DISKS}) == 1 "
            f"and {_ON} min {_BY} (min_over_time(node_filesystem_device_error{_DISKS}[7d])) == 0"
        ),
        severity="critical",
        lasts="2m",
        summary=(
            "{{ $labels.mountpoint }} of {{ $labels.instance }} on {{ $labels.device }} does not answer "
            "(device_error is {{ $value }})"
        ),
        description="The kernel gets errors instead of the file system's state: a failing disk or a lost network disk.",
        dashboard="trunkline-system",
        labels=_LABELS,
        cases=(
            Case(
                {
                    _named("node_filesystem_device_error", _VAR): "0x20 stale",
                    _named("node_filesystem_device_error", _VAR | {"device_error": "input/output error"}): "_x20 1x40",
                },
                "10m",
                _VAR | _LABELS,
                "/var of m1:9100 on /dev/vda1 does not answer (device_error is 1)",
            ),
            # The exporter was never allowed to look at it.
            Case({_named("node_filesystem_device_error", _CD): "1x100"}, "10m"),
        ),
    ),
)
