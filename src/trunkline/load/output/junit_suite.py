"""JUnit XML for CI systems that show test results. Pure.

The file is what the common reading programs agree on: the elements and attributes of Ant's JUnit task.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from typing import Literal

from trunkline.load.output.formatting import plain


class Suite:
    """One test suite: `case` adds a test, `written` is the file."""

    def __init__(self, name: str, properties: Iterable[tuple[str, str]]) -> None:
        self._name = plain(name)
        self._suite = ET.Element("testsuite")
        listed = ET.SubElement(self._suite, "properties")
        for key, value in properties:
            ET.SubElement(listed, "property", name=key, value=plain(value))

    def case(self, group: str, name: str) -> ET.Element:
        """A test that passes unless `because` says otherwise; `group` is what a test's class is elsewhere."""
        return ET.SubElement(self._suite, "testcase", classname=plain(group), name=plain(name), time="0")

    def written(self, output: str, started: str, lasted_s: float) -> bytes:
        """The file in UTF-8; `started` is RFC 3339 in UTC."""
        suite = self._suite
        ET.SubElement(suite, "system-out").text = "".join(plain(line) + "\n" for line in output.splitlines())
        numbers = {
            "tests": str(len(suite.findall("testcase"))),
            "failures": str(len(suite.findall("testcase/failure"))),
            "errors": str(len(suite.findall("testcase/error"))),
            "time": f"{lasted_s:.3f}",
        }
        suite.attrib |= {
            "name": self._name,
            **numbers,
            "skipped": str(len(suite.findall("testcase/skipped"))),
            # Of the zone, which some readers refuse, nothing is lost: reports are in UTC.
            "timestamp": plain(started[:19]),
            "hostname": "localhost",
        }
        root = ET.Element("testsuites", {"name": self._name, **numbers})
        root.append(suite)
        ET.indent(root)
        text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
        return text + b"\n"


def because(case: ET.Element, what: Literal["failure", "error", "skipped"], message: str, lines: str = "") -> None:
    """Why a test did not pass."""
    element = ET.SubElement(case, what, message=plain(message))
    if what != "skipped":
        element.set("type", what)
    element.text = "\n".join(plain(line) for line in lines.splitlines()) or None
