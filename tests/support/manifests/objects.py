"""Rendered manifests as plain objects, and the few ways in which tests look at them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support import ROOT
from tests.support.manifests.programs import run

KUSTOMIZE = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("local", "production", "canary")

Object = dict[str, Any]


@functools.cache
def kustomized(overlay: str) -> str:
    """An overlay as `kubectl kustomize` prints it."""
    return run("kubectl", "kustomize", KUSTOMIZE / "overlays" / overlay)


@functools.cache
def objects(text: str) -> dict[tuple[str, str], Object]:
    """The objects of a YAML text by kind and name, not to be changed; no two have the same."""
    found: dict[tuple[str, str], Object] = {}
    for each in yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if each is None:
            continue
        key = each["kind"], each["metadata"]["name"]
        assert key not in found, key
        found[key] = each
    return found


def pods(text: str) -> Iterator[tuple[str, Object]]:
    """Name and pod template of every workload."""
    for (_, name), each in objects(text).items():
        if template := each.get("spec", {}).get("template"):
            yield name, template


def container(template: Object, name: str) -> Object:
    """A container of a pod template by name."""
    (found,) = (each for each in template["spec"]["containers"] if each["name"] == name)
    return found


def settings_of(text: str) -> dict[str, str]:
    """The variables of the ConfigMap that nodes and balancers share."""
    (found,) = (
        each["data"]
        for (kind, name), each in objects(text).items()
        if kind == "ConfigMap" and name.startswith("trunkline-settings")
    )
    return found


def variables(text: str, template: Object, part: str) -> dict[str, str]:
    """The variables of a container that are known before it runs: those of the ConfigMap, and literal ones."""
    own = container(template, part)
    literal = {each["name"]: each["value"] for each in own.get("env", ()) if "value" in each}
    return settings_of(text) | literal


def path_of(overlay: str) -> Path:
    """The directory of an overlay."""
    return KUSTOMIZE / "overlays" / overlay
