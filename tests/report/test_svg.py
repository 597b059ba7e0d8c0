from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np

from surefield.report.svg import Band, Line, Rule, chart, shares


def texts(svg: str) -> list[str]:
    return ["".join(e.itertext()) for e in ElementTree.fromstring(svg).iter() if e.tag == "text"]


def test_points_stand_where_the_axes_say():
    svg = chart([Line([0, 10], [0, 100], "one", width=0), Line([5], [50], "two", width=0)], "x (a)", "y (b)")
    root = ElementTree.fromstring(svg)
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter("circle")]
    points = circles[:3]  # the legend has its own
    (x0, y0), (x1, y1), (x, y) = points
    assert x0 < x < x1
    assert abs(x - (x0 + x1) / 2) < 0.11
    assert abs(y - (y0 + y1) / 2) < 0.11
    assert y1 < y0
    found = texts(svg)
    assert {"x (a)", "y (b)", "0", "100", "one", "two"} <= set(found)
    # A tick stands at the height of the point that has its value.
    (tick,) = [e for e in root.iter("text") if e.text == "100"]
    assert abs(float(tick.get("y")) - 4.5 - y1) < 0.11


def test_logarithmic_axes_leave_out_what_has_no_place():
    svg = chart([Line([1, 2, 3, 4], [0.0, 1.0, np.nan, 100.0])], "x", "y", log_y=True)
    assert len(re.findall("<circle", svg)) == 2
    assert len(re.findall(r'<path d="M[^"]*L', svg)) == 0, "nothing joins points across a gap"
    assert chart([Line([1], [0.0])], "x", "y", log_y=True) == ""
    narrow = chart([Line([1, 2], [5.0, 5.1])], "x", "y", log_y=True)
    assert len([t for t in texts(narrow) if re.fullmatch(r"[\d.]+", t)]) >= 3


def test_rules_bands_and_words():
    lines = [Line([0, 1], [1.0, 2.0], told=["a < b", "c"])]
    svg = chart(
        lines, "x", "y", rules=[Rule(3.0, "stop & go")], bands=[Band(1.0, 3.0, "#123456")], width=1120
    )
    assert "a &lt; b" in svg
    assert "stop & go" in texts(svg)
    assert 'viewBox="0 0 1120' in svg
    root = ElementTree.fromstring(svg)
    (band,) = [e for e in root.iter("rect") if e.get("fill") == "#123456"]
    (rule,) = [e for e in root.iter("path") if e.get("stroke-dasharray")]
    height = float(re.search(r"M\d+ ([\d.]+)H", rule.get("d")).group(1))
    assert abs(float(band.get("y")) - height) < 0.11


def test_whole_numbers_and_single_points():
    svg = chart([Line([3], [0.0])], "Round", "y", whole_x=True)
    assert "3" in texts(svg)
    assert chart([], "x", "y") == ""
    assert chart([Line([np.nan], [1.0])], "x", "y") == ""


def test_shares():
    html = shares([(3, "good", "#0a0"), (0, "none", "#00a"), (1, "bad <", "#a00")])
    assert re.findall(r"width:([\d.]+)%", html) == ["75.00", "25.00"]
    assert "bad &lt;" in html
    assert shares([(0, "good", "#0a0")]) == ""
