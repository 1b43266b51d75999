"""EndpointSlices as the controllers of a cluster write them."""

from __future__ import annotations

from tests.support.kubernetes.store import Object


def endpoint(
    address: str,
    pod: str = "",
    *,
    ready: bool | None = True,
    serving: bool | None = None,
    terminating: bool | None = False,
    machine: str = "",
) -> Object:
    """An entry of `endpoints`; conditions that are None are left out."""
    conditions = {"ready": ready, "serving": ready if serving is None else serving, "terminating": terminating}
    found: Object = {
        "addresses": [address],
        "conditions": {name: value for name, value in conditions.items() if value is not None},
    }
    if pod:
        found["targetRef"] = {"kind": "Pod", "namespace": "live", "name": pod, "uid": f"uid-of-{pod}"}
    if machine:
        found["nodeName"] = machine
    return found


def endpoint_slice(
    name: str, *endpoints: Object, service: str = "ws", family: str = "IPv4", ports: list[Object] | None = None
) -> Object:
    """An EndpointSlice; without endpoints or ports they are null, as Go writes empty lists."""
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": family,
        "endpoints": list(endpoints) or None,
        "ports": [{"name": "ws", "port": 3001, "protocol": "TCP"}] if ports is None else ports or None,
    }
