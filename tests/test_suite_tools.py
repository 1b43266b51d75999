"""The suite's own tools: how patient it is, and which tests it takes for such that start processes."""

from __future__ import annotations

import asyncio

import pytest

from tests.support import fleet_process, patience
from tests.support.bench_smoke import quick
from tests.support.reach import reaches


@pytest.mark.parametrize(
    ("loop_ms", "busy", "processors", "factor"),
    [
        (4.0, 0.0, 2, 1.0),
        (8.0, 0.0, 2, 1.0),
        (24.0, 0.0, 2, 3.0),
        (8.0, 4.0, 2, 5.0),
        (8.0, 4.0, 8, 2.0),
        (1e3, 9.0, 1, 20.0),
    ],
)
def test_patience_grows_with_slowness_and_with_company(
    loop_ms: float, busy: float, processors: int, factor: float
) -> None:
    """A quiet machine of usual speed has the factor 1; there is a limit."""
    assert patience.factor_of(loop_ms / 1000, busy, processors) == pytest.approx(factor)


def test_patience_scales() -> None:
    """Both helpers multiply by the factor of the run, which is at least 1."""
    assert patience.FACTOR >= 1
    assert patience.patient(2.0) == 2.0 * patience.FACTOR
    assert patience.patient_ms(200) == round(200 * patience.FACTOR)


class Starter:
    """As a helper of the tests would."""

    @property
    def started(self) -> object:
        return asyncio.create_subprocess_exec("true")


def uses_a_class() -> None:
    Starter()


def uses_a_module() -> None:
    def within() -> None:
        fleet_process.FleetProcess  # noqa: B018

    within()


def uses_a_function() -> None:
    quick  # noqa: B018


def harmless() -> None:
    patience.patient(1.0)


@pytest.mark.parametrize(
    ("function", "found"), [(uses_a_class, True), (uses_a_module, True), (uses_a_function, True), (harmless, False)]
)
def test_starts_of_processes_are_found(function: object, found: bool) -> None:
    """Through functions, classes and modules of the tests."""
    assert reaches([function]) == found  # type: ignore[list-item]
