from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from tests.report.loop_folder import write_loop_folder
from tests.report.test_html import browser  # noqa: F401

from surefield.report import structures_page, write_loop_page
from surefield.report.loop_state import load_loop
from surefield.report.structures_page import STRUCTURES, viewer_is_there, write_structures_page


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_loop_folder(tmp_path / "ethanol-loop")


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A viewer that draws nothing."""
    script = tmp_path / "viewer.js"
    script.write_text("const Chemiscope = {};")
    monkeypatch.setattr(structures_page, "_viewer", lambda: script)


def dataset(path: Path) -> dict:
    return json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', path.read_text(), re.S).group(1))


@pytest.mark.usefixtures("stub")
def test_all_chosen_structures_are_there_in_order(folder):
    data = dataset(write_structures_page(load_loop(folder)))
    assert len(data["structures"]) == 10 + 4 * (3 + 12)
    columns = {name: entry["values"] for name, entry in data["properties"].items()}
    assert all(len(values) == 70 for values in columns.values())
    assert columns["chosen as"][:11] == ["initial"] * 10 + ["audit"]
    assert columns["round"][-1] == 3
    assert columns["sigma (eV/Å)"][0] is None
    assert columns["sigma (eV/Å)"][-1] == pytest.approx(0.32)
    assert columns["state"][-8] == "failed"
    assert data["structures"][1]["names"] == ["C"] * 6 + ["H"] * 6
    shown = {axis["property"] for axis in data["settings"]["map"].values() if isinstance(axis, dict)}
    assert shown <= set(columns)


@pytest.mark.usefixtures("stub")
def test_it_is_written_once_a_round(folder):
    html = write_loop_page(folder).read_text()
    page = folder / STRUCTURES
    assert f'href="{STRUCTURES}"' in html
    before = page.stat().st_mtime_ns
    write_loop_page(folder)
    assert page.stat().st_mtime_ns == before
    time.sleep(0.02)
    (folder / "rounds" / "003" / "picked.xyz").touch()
    write_loop_page(folder)
    assert page.stat().st_mtime_ns > before


def test_without_the_viewer_there_is_no_page_and_no_link(folder, monkeypatch):
    monkeypatch.setattr(structures_page, "_viewer", lambda: None)
    assert write_structures_page(load_loop(folder)) is None
    assert STRUCTURES not in write_loop_page(folder).read_text()
    assert not (folder / STRUCTURES).exists()


@pytest.mark.skipif(not viewer_is_there(), reason="needs the package chemiscope")
def test_it_is_drawn_in_a_browser(folder, browser):  # noqa: F811
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(write_structures_page(load_loop(folder)).as_uri())
    WebDriverWait(browser, 30).until(
        lambda page: page.execute_script("return document.body.dataset.drawn") == "yes"
    )
    inside = "[...document.querySelectorAll('#map, #map *')].map((e) => e.shadowRoot || e)"
    found = f"return {inside}.reduce((n, e) => n + e.querySelectorAll('canvas, svg').length, 0)"
    assert browser.execute_script(found) > 0
    severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not severe, severe
