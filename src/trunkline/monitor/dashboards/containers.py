"""Containers, from cAdvisor. A control group that is no container has no name and is left out."""

from __future__ import annotations

from trunkline.monitor.dashboards.panels import CPU, GREEN, MEMORY, RED, Board, Panel, Query, Row, of, one, rate, total

NAMED = 'name!=""'
USED_CPU = total(rate("container_cpu_usage_seconds_total", NAMED), "instance", "name")
QUOTA = (
    f"max by (instance, name) ({of('container_spec_cpu_quota', NAMED)} / {of('container_spec_cpu_period', NAMED)} > 0)"
)
MEMORY_USED = f"max by (instance, name) ({of('container_memory_working_set_bytes', NAMED)})"
MEMORY_LIMIT = f"(max by (instance, name) ({of('container_spec_memory_limit_bytes', NAMED)}) > 0)"

USE = Row(
    "CPU and memory",
    (
        Panel(
            title="Container CPU",
            about="Cores that each container uses.",
            unit="none",
            queries=one(USED_CPU, "{{name}}"),
        ),
        Panel(
            title="Container CPU, share of the quota",
            about="CPU of each container, of its quota. Nothing where none is set.",
            unit="percent",
            queries=one(f"100 * {USED_CPU} / {QUOTA}", "{{name}}"),
            limits=CPU,
        ),
        Panel(
            title="Throttled periods",
            about="Share of the scheduler's periods in which the container used up its quota and stood still.",
            unit="percent",
            queries=one(
                f"100 * {total(rate('container_cpu_cfs_throttled_periods_total', NAMED), 'instance', 'name')}"
                f" / ({total(rate('container_cpu_cfs_periods_total', NAMED), 'instance', 'name')} > 0)",
                "{{name}}",
            ),
            most=100,
        ),
        Panel(
            title="Container memory",
            about="Memory of each container that cannot be given back.",
            unit="bytes",
            queries=one(MEMORY_USED, "{{name}}"),
        ),
        Panel(
            title="Container memory, share of the limit",
            about="Near 100 % the kernel kills a process of it. Nothing where no limit is set.",
            unit="percent",
            queries=one(f"100 * {MEMORY_USED} / {MEMORY_LIMIT}", "{{name}}"),
            limits=MEMORY,
            most=100,
        ),
        Panel(
            title="Killed for lack of memory",
            about="Processes of each container that the kernel killed, per minute.",
            unit="cpm",
            queries=one(f"60 * {total(rate('container_oom_events_total', NAMED), 'instance', 'name')}", "{{name}}"),
        ),
    ),
)

LIFE = Row(
    "Life, network and disk",
    (
        Panel(
            title="Restarts in an hour",
            about="How often each container was started in the last hour. One that keeps counting is in a crash loop.",
            unit="short",
            queries=one(
                f"sum by (instance, name) (changes({of('container_start_time_seconds', NAMED)}[1h]))", "{{name}}"
            ),
            limits=((None, GREEN), (3.0, RED)),
        ),
        Panel(
            title="Container running since",
            about="Time since each container was started.",
            unit="s",
            queries=one(f"time() - max by (instance, name) ({of('container_start_time_seconds', NAMED)})", "{{name}}"),
        ),
        Panel(
            title="Last seen",
            about="Time since cAdvisor saw each container. It grows for one that is gone.",
            unit="s",
            queries=one(f"time() - max by (instance, name) ({of('container_last_seen', NAMED)})", "{{name}}"),
        ),
        Panel(
            title="Container network",
            about="Bytes received and sent per second. Containers on the host's network have none of their own.",
            unit="Bps",
            queries=(
                Query(
                    total(rate("container_network_receive_bytes_total", NAMED), "instance", "name"), "received {{name}}"
                ),
                Query(
                    total(rate("container_network_transmit_bytes_total", NAMED), "instance", "name"), "sent {{name}}"
                ),
            ),
        ),
        Panel(
            title="Container network drops",
            about="Packets lost per second at the container's network card.",
            unit="cps",
            queries=(
                Query(
                    total(rate("container_network_receive_packets_dropped_total", NAMED), "instance", "name"),
                    "receive {{name}}",
                ),
                Query(
                    total(rate("container_network_transmit_packets_dropped_total", NAMED), "instance", "name"),
                    "send {{name}}",
                ),
            ),
        ),
        Panel(
            title="Container disk",
            about="Bytes read and written per second.",
            unit="Bps",
            queries=(
                Query(total(rate("container_fs_reads_bytes_total", NAMED), "instance", "name"), "read {{name}}"),
                Query(total(rate("container_fs_writes_bytes_total", NAMED), "instance", "name"), "written {{name}}"),
            ),
        ),
        Panel(
            title="Container files",
            about="Bytes that each container's own layer takes on disk.",
            unit="bytes",
            queries=one(total(of("container_fs_usage_bytes", NAMED), "instance", "name"), "{{name}}"),
        ),
        Panel(
            title="Processes and threads",
            about="Processes and threads of each container.",
            unit="short",
            queries=(
                Query(total(of("container_processes", NAMED), "instance", "name"), "processes of {{name}}"),
                Query(total(of("container_threads", NAMED), "instance", "name"), "threads of {{name}}"),
            ),
        ),
        Panel(
            title="Container open files",
            about="File descriptors that each container has open. A node has one for each connection.",
            unit="short",
            queries=one(total(of("container_file_descriptors", NAMED), "instance", "name"), "{{name}}"),
        ),
        Panel(
            title="cAdvisor up",
            about="Exporters of containers that answered the last scrape.",
            unit="none",
            queries=one(of("up"), "{{instance}}"),
            shape="states",
            width=24,
            limits=((None, RED), (1.0, GREEN)),
            words=((0.0, "down", RED), (1.0, "up", GREEN)),
        ),
    ),
)

BOARD = Board(
    uid="trunkline-containers",
    title="Trunkline: containers",
    about="CPU, memory, restarts, network and disk of containers.",
    tags=("containers",),
    root="cadvisor_version_info",
    rows=(USE, LIFE),
)
