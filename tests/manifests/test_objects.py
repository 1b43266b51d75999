"""Every object is one that Kubernetes takes, under the strictest Pod Security Standard, and refers to what is there."""

from __future__ import annotations

import re
from collections.abc import Iterator

import kubernetes_validate
import pytest

from tests.support.manifests.objects import OVERLAYS, Object, kustomized, objects, pods
from tests.support.manifests.schemas import CUSTOM_GROUPS

MADE_BY_HAND = {"trunkline-admin", "trunkline-nats", "trunkline-nats-passwords"}
"""Secrets, which are in no file."""

OLDEST, NEWEST = "1.30", "1.37"
"""Versions of Kubernetes that the documentation names."""


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_takes_every_object(overlay: str, version: str) -> None:
    for key, each in objects(kustomized(overlay)).items():
        if each["apiVersion"].partition("/")[0] not in CUSTOM_GROUPS:
            try:
                kubernetes_validate.validate(each, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                pytest.fail(f"{key} at {'.'.join(map(str, error.path))}: {error.message}")


def test_the_validator_sees_a_slip_of_the_pen() -> None:
    """Without `strict` an unknown field would pass."""
    service = objects(kustomized("local"))["Service", "trunkline-nodes"]
    spoiled = service | {"spec": service["spec"] | {"clusterIp": "None"}}
    with pytest.raises(kubernetes_validate.ValidationError, match="clusterIp"):
        kubernetes_validate.validate(spoiled, NEWEST, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_restricted(overlay: str) -> None:
    """Pod Security Standards, profile restricted, and beyond it a read-only root, a number for a user, and bounds."""
    seen = set()
    for name, template in pods(kustomized(overlay)):
        seen.add(name)
        spec = template["spec"]
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] >= 10_000, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not any(spec.get(field) for field in ("hostNetwork", "hostPID", "hostIPC")), name
        assert spec["enableServiceLinks"] is False, name
        for each in spec["containers"]:
            own = each["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["readOnlyRootFilesystem"] is True, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert {"cpu", "memory"} <= each["resources"]["requests"].keys(), name
            assert "memory" in each["resources"]["limits"], name
            assert spec.get("restartPolicy") == "OnFailure" or {"livenessProbe", "readinessProbe"} <= each.keys(), name
            assert not any("hostPort" in port for port in each.get("ports", ())), name
        for volume in spec.get("volumes", ()):
            assert "hostPath" not in volume, name
            if "emptyDir" in volume:
                assert "sizeLimit" in volume["emptyDir"], name
    assert {"trunkline-blue", "trunkline-green", "trunkline-balancer", "trunkline-nats"} <= seen


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_an_object_refers_to_is_there(overlay: str) -> None:
    found = objects(kustomized(overlay))
    names = {kind: {name for one, name in found if one == kind} for kind, _ in found}
    names["Secret"] = MADE_BY_HAND
    for name, template in pods(kustomized(overlay)):
        for kind, wanted in referred(template):
            assert wanted in names[kind], f"{name} wants {kind} {wanted}"
    for (kind, name), each in found.items():
        if kind == "RoleBinding":
            assert each["roleRef"]["name"] in names["Role"]
            assert {subject["name"] for subject in each["subjects"]} <= names["ServiceAccount"]
        elif kind in ("Service", "PodDisruptionBudget"):
            wanted_labels = each["spec"]["selector"]
            wanted_labels = wanted_labels.get("matchLabels", wanted_labels)
            assert any(
                wanted_labels.items() <= template["metadata"]["labels"].items()
                for _, template in pods(kustomized(overlay))
            ), name
        elif kind == "Deployment" and name in ("trunkline-blue", "trunkline-green"):
            selector = each["spec"]["selector"]["matchLabels"]
            assert selector["trunkline.colour"] == name.removeprefix("trunkline-")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ports_are_those_of_the_containers(overlay: str) -> None:
    """Of Services, and of probes, by their names."""
    for (kind, name), each in objects(kustomized(overlay)).items():
        if kind != "Service":
            continue
        selector = each["spec"]["selector"].items()
        for _, template in pods(kustomized(overlay)):
            if selector <= template["metadata"]["labels"].items():
                ports = {
                    port["name"]: port["containerPort"]
                    for own in template["spec"]["containers"]
                    for port in own.get("ports", ())
                }
                for port in each["spec"]["ports"]:
                    assert port["targetPort"] in ports, name
                    assert ports[port["targetPort"]] == port["port"], name
    for name, template in pods(kustomized(overlay)):
        for own in template["spec"]["containers"]:
            named = {port["name"] for port in own.get("ports", ())}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if probe in own:
                    (port,) = (how["port"] for how in own[probe].values() if isinstance(how, dict))
                    assert port in named, (name, probe)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_right_is_wider_than_named(overlay: str) -> None:
    """No wildcard, no cluster role, no Secret, nothing created or deleted; nodes and NATS have no token at all."""
    for (kind, name), each in objects(kustomized(overlay)).items():
        assert kind not in ("ClusterRole", "ClusterRoleBinding"), name
        if kind == "Role":
            for rule in each["rules"]:
                words = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
                assert not words & {"*", "secrets", "create", "delete", "deletecollection", "update"}, name
                if "patch" in rule["verbs"]:
                    assert rule["resourceNames"] == ["trunkline-blue", "trunkline-green"]
    for name, template in pods(kustomized(overlay)):
        assert template["spec"]["automountServiceAccountToken"] is (name == "trunkline-balancer"), name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_secret_is_in_a_file(overlay: str) -> None:
    assert "Secret" not in {kind for kind, _ in objects(kustomized(overlay))}
    assert not re.search(r"nats://[^\s:@/]+:[^$\s@]+@", kustomized(overlay))


def referred(template: Object) -> Iterator[tuple[str, str]]:
    """Kind and name of what a pod template refers to."""
    spec = template["spec"]
    if "serviceAccountName" in spec:
        yield "ServiceAccount", spec["serviceAccountName"]
    for volume in spec.get("volumes", ()):
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
    for own in spec["containers"]:
        for source in own.get("envFrom", ()):
            kind = "ConfigMap" if "configMapRef" in source else "Secret"
            yield kind, next(iter(source.values()))["name"]
        for variable in own.get("env", ()):
            if "secretKeyRef" in variable.get("valueFrom", {}):
                yield "Secret", variable["valueFrom"]["secretKeyRef"]["name"]
