"""The machines that everything runs on, from node_exporter."""

from __future__ import annotations

from trunkline.monitor.dashboards.panels import (
    CPU,
    GREEN,
    MEMORY,
    RED,
    YELLOW,
    Board,
    Panel,
    Query,
    Row,
    of,
    one,
    per_minute,
    rate,
)

DISKS = 'device!~"ram.+|loop.+|fd.+|sr.+|zram.+"'
NETWORKS = 'device!~"lo|veth.+|br-.+|ifb.+"'
IDLE, BUSY = 'mode="idle"', 'mode!="idle"'
REAL_FILES = 'fstype!~"tmpfs|ramfs|overlay|squashfs|nsfs|fuse.*"'
USED_CPU = f"100 * (1 - avg by (instance) ({rate('node_cpu_seconds_total', IDLE)}))"
USED_MEMORY = f"100 * (1 - {of('node_memory_MemAvailable_bytes')} / {of('node_memory_MemTotal_bytes')})"
USED_DISK = (
    f"100 * (1 - {of('node_filesystem_avail_bytes', REAL_FILES)} / {of('node_filesystem_size_bytes', REAL_FILES)})"
)
PRESSURE = {
    "CPU": "node_pressure_cpu_waiting_seconds_total",
    "memory": "node_pressure_memory_waiting_seconds_total",
    "disk": "node_pressure_io_waiting_seconds_total",
}

PROCESSOR = Row(
    "CPU and memory",
    (
        Panel(
            title="Machine CPU used",
            about="Share of all cores that is not idle. At 90 % for long, event loops run late.",
            unit="percent",
            queries=one(USED_CPU, "{{instance}}"),
            limits=CPU,
            most=100,
        ),
        Panel(
            title="CPU by mode",
            about="What the cores do. Steal is time that a neighbour on the same host took, softirq mostly network.",
            unit="percentunit",
            queries=one(
                f"avg by (mode) ({rate('node_cpu_seconds_total', BUSY)})",
                "{{mode}}",
            ),
            shape="stack",
            most=1,
        ),
        Panel(
            title="Load per core",
            about="Tasks that run or wait, for each core. Above 1 for long, work queues.",
            unit="none",
            queries=one(
                f"{of('node_load1')} / on (instance) count by (instance) ({of('node_cpu_seconds_total', IDLE)})",
                "{{instance}}",
            ),
            limits=((None, GREEN), (1.0, YELLOW), (2.0, RED)),
        ),
        Panel(
            title="Machine memory used",
            about="Memory that programs could not get without swapping.",
            unit="percent",
            queries=one(USED_MEMORY, "{{instance}}"),
            limits=MEMORY,
            most=100,
        ),
        Panel(
            title="Memory",
            about="Memory in all, available, and in swap.",
            unit="bytes",
            queries=(
                Query(of("node_memory_MemTotal_bytes"), "total {{instance}}"),
                Query(of("node_memory_MemAvailable_bytes"), "available {{instance}}"),
                Query(
                    f"{of('node_memory_SwapTotal_bytes')} - {of('node_memory_SwapFree_bytes')}",
                    "swap used {{instance}}",
                ),
            ),
        ),
        Panel(
            title="Pressure",
            about="Share of time in which some task waited for CPU, memory or disk.",
            unit="percentunit",
            queries=tuple(Query(rate(series), f"{what} {{{{instance}}}}") for what, series in PRESSURE.items()),
        ),
        Panel(
            title="Programs killed for lack of memory",
            about="Kills by the kernel per minute, in containers or not.",
            unit="cpm",
            queries=one(f"60 * {rate('node_vmstat_oom_kill')}", "{{instance}}"),
        ),
        Panel(
            title="Context switches",
            about="Switches between tasks per second.",
            unit="cps",
            queries=one(rate("node_context_switches_total"), "{{instance}}"),
        ),
        Panel(
            title="Running since",
            about="Time since the machine started.",
            unit="s",
            queries=one(f"time() - {of('node_boot_time_seconds')}", "{{instance}}"),
            shape="stat",
        ),
    ),
)

DISK = Row(
    "Disks",
    (
        Panel(
            title="Disk used",
            about="Used share of each file system. JetStream, PostgreSQL and Prometheus stop when theirs is full.",
            unit="percent",
            queries=one(USED_DISK, "{{instance}} {{mountpoint}}"),
            limits=((None, GREEN), (80.0, YELLOW), (90.0, RED)),
            most=100,
        ),
        Panel(
            title="Free inodes",
            about="Share of inodes that are free; many small files use them up before the space.",
            unit="percent",
            queries=one(
                f"100 * {of('node_filesystem_files_free', REAL_FILES)} / {of('node_filesystem_files', REAL_FILES)}",
                "{{instance}} {{mountpoint}}",
            ),
            limits=((None, RED), (5.0, YELLOW), (10.0, GREEN)),
            most=100,
        ),
        Panel(
            title="Disk bytes",
            about="Bytes read and written per second.",
            unit="Bps",
            queries=(
                Query(rate("node_disk_read_bytes_total", DISKS), "read {{instance}} {{device}}"),
                Query(rate("node_disk_written_bytes_total", DISKS), "written {{instance}} {{device}}"),
            ),
        ),
        Panel(
            title="Disk operations",
            about="Reads and writes completed per second.",
            unit="iops",
            queries=(
                Query(rate("node_disk_reads_completed_total", DISKS), "reads {{instance}} {{device}}"),
                Query(rate("node_disk_writes_completed_total", DISKS), "writes {{instance}} {{device}}"),
            ),
        ),
        Panel(
            title="Disk busy",
            about="Share of time in which the disk had work.",
            unit="percentunit",
            queries=one(rate("node_disk_io_time_seconds_total", DISKS), "{{instance}} {{device}}"),
            most=1,
        ),
        Panel(
            title="Time of a write",
            about="Mean time of a write. A slow disk holds up JetStream's acknowledgements.",
            unit="s",
            queries=one(
                f"{rate('node_disk_write_time_seconds_total', DISKS)}"
                f" / ({rate('node_disk_writes_completed_total', DISKS)} > 0)",
                "{{instance}} {{device}}",
            ),
        ),
        Panel(
            title="Disks in trouble",
            about="File systems that are read-only, or that the kernel could not ask. Some are so on purpose, from the "
            "beginning; one that becomes so has lost its disk.",
            unit="none",
            queries=(
                Query(of("node_filesystem_readonly", REAL_FILES), "read-only {{instance}} {{mountpoint}}"),
                Query(of("node_filesystem_device_error", REAL_FILES), "error {{instance}} {{mountpoint}}"),
            ),
            shape="states",
            width=24,
            limits=((None, GREEN), (1.0, RED)),
            words=((0.0, "no", GREEN), (1.0, "yes", RED)),
        ),
    ),
)

NETWORK = Row(
    "Network and limits",
    (
        Panel(
            title="Network bytes",
            about="Bytes received and sent per second by network card.",
            unit="Bps",
            queries=(
                Query(rate("node_network_receive_bytes_total", NETWORKS), "received {{instance}} {{device}}"),
                Query(rate("node_network_transmit_bytes_total", NETWORKS), "sent {{instance}} {{device}}"),
            ),
        ),
        Panel(
            title="Network errors and drops",
            about="Packets per second that were lost in the card or the kernel.",
            unit="cps",
            queries=(
                Query(rate("node_network_receive_errs_total", NETWORKS), "receive errors {{instance}} {{device}}"),
                Query(rate("node_network_transmit_errs_total", NETWORKS), "send errors {{instance}} {{device}}"),
                Query(rate("node_network_receive_drop_total", NETWORKS), "receive drops {{instance}} {{device}}"),
                Query(rate("node_network_transmit_drop_total", NETWORKS), "send drops {{instance}} {{device}}"),
            ),
        ),
        Panel(
            title="TCP connections",
            about="Established connections, and closed ones that wait out their time.",
            unit="short",
            queries=(
                Query(of("node_netstat_Tcp_CurrEstab"), "established {{instance}}"),
                Query(of("node_sockstat_TCP_tw"), "time-wait {{instance}}"),
            ),
        ),
        Panel(
            title="TCP segments sent again",
            about="Share of segments that had to be sent again; above 1 % the network loses packets.",
            unit="percent",
            queries=one(
                f"100 * {rate('node_netstat_Tcp_RetransSegs')} / ({rate('node_netstat_Tcp_OutSegs')} > 0)",
                "{{instance}}",
            ),
        ),
        Panel(
            title="Refused by a full accept queue",
            about="Handshakes per second that found the queue of a listener full.",
            unit="cps",
            queries=one(rate("node_netstat_TcpExt_ListenOverflows"), "{{instance}}"),
        ),
        Panel(
            title="Open files",
            about="File descriptors in use on the machine, of what the kernel allows. Each connection takes one.",
            unit="percent",
            queries=one(f"100 * {of('node_filefd_allocated')} / {of('node_filefd_maximum')}", "{{instance}}"),
            limits=((None, GREEN), (80.0, YELLOW), (90.0, RED)),
            most=100,
        ),
        Panel(
            title="Connection tracking",
            about="Entries of the firewall's connection table, of what it holds. Full, it drops new connections.",
            unit="percent",
            queries=one(
                f"100 * {of('node_nf_conntrack_entries')} / {of('node_nf_conntrack_entries_limit')}", "{{instance}}"
            ),
            limits=((None, GREEN), (80.0, YELLOW), (90.0, RED)),
            most=100,
        ),
        Panel(
            title="Clock offset",
            about="How far the clock is off, by its own reckoning. Delivery latency is measured across clocks.",
            unit="s",
            queries=one(of("node_timex_offset_seconds"), "{{instance}}"),
            least=None,
        ),
        Panel(
            title="Clock error at most",
            about="How far the clock may be off. At 16 s the kernel has given it up: nothing sets it.",
            unit="s",
            queries=one(of("node_timex_maxerror_seconds"), "{{instance}}"),
        ),
        Panel(
            title="Open files by process",
            about="File descriptors of each program that reports them, of what it may have.",
            unit="percent",
            queries=one(f"100 * {of('process_open_fds')} / ({of('process_max_fds')} > 0)", "{{job}} {{instance}}"),
            limits=((None, GREEN), (80.0, YELLOW), (90.0, RED)),
            most=100,
        ),
        Panel(
            title="Machines up",
            width=16,
            about="Node exporters that answered the last scrape.",
            unit="none",
            queries=one(of("up"), "{{instance}}"),
            shape="states",
            limits=((None, RED), (1.0, GREEN)),
            words=((0.0, "down", RED), (1.0, "up", GREEN)),
        ),
    ),
)

WATCHING = Row(
    "Monitoring itself",
    (
        Panel(
            title="Alerts by name",
            about="Alerts that fire. The watchdog always does: when it is missing, alerts do not get through.",
            unit="short",
            queries=one(
                'count by (alertname, severity) (ALERTS{alertstate="firing",alertname=~"Trunkline.*"})',
                "{{alertname}} {{severity}}",
            ),
            shape="states",
            width=24,
            limits=((None, YELLOW),),
            explains=("TrunklineWatchdog",),
        ),
        Panel(
            title="Targets down",
            about="Targets of any job that did not answer the last scrape.",
            unit="short",
            queries=one(f"sum by (job) (1 - {of('up')})", "{{job}}"),
            shape="stack",
        ),
        Panel(
            title="Time of a scrape",
            about="How long each target takes to answer; it must stay below the scrape's time limit.",
            unit="s",
            queries=one(of("scrape_duration_seconds"), "{{job}} {{instance}}"),
        ),
        Panel(
            title="Rules that fail",
            about="Evaluations of rules that failed, per minute. An alert that cannot be evaluated never fires.",
            unit="cpm",
            queries=one(f"60 * {rate('prometheus_rule_evaluation_failures_total')}", "{{rule_group}}"),
        ),
        Panel(
            title="Notifications",
            about="Alerts per minute that Prometheus handed to Alertmanager, that it could not hand over, and that "
            "Alertmanager could not deliver.",
            unit="cpm",
            queries=(
                Query(f"60 * {rate('prometheus_notifications_sent_total')}", "sent to {{alertmanager}}"),
                Query(f"60 * {rate('prometheus_notifications_errors_total')}", "failed to {{alertmanager}}"),
                Query(
                    per_minute("alertmanager_notifications_failed_total", "integration"), "not told by {{integration}}"
                ),
            ),
        ),
        Panel(
            title="Alertmanagers known",
            about="Alertmanagers that Prometheus sends alerts to. With none, nobody is told.",
            unit="short",
            queries=one(of("prometheus_notifications_alertmanagers_discovered"), "{{instance}}"),
            limits=((None, RED), (1.0, GREEN)),
        ),
        Panel(
            title="Configuration taken",
            about="Whether Prometheus and Alertmanager took their files at the last load; else they run on older ones.",
            unit="none",
            queries=(
                Query(of("prometheus_config_last_reload_successful"), "Prometheus {{instance}}"),
                Query(of("alertmanager_config_last_reload_successful"), "Alertmanager {{instance}}"),
            ),
            shape="states",
            limits=((None, RED), (1.0, GREEN)),
            words=((0.0, "refused", RED), (1.0, "taken", GREEN)),
        ),
    ),
)

BOARD = Board(
    uid="trunkline-system",
    title="Trunkline: system",
    about="The machines: CPU, memory, disks, network, limits.",
    tags=("system",),
    root='{__name__=~"node_boot_time_seconds|prometheus_build_info|alertmanager_config_last_reload_successful"}',
    rows=(PROCESSOR, DISK, NETWORK, WATCHING),
)
