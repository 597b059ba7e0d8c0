"""The page in a real browser: nothing may fail in its console, every figure must be drawn."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("plotly", reason="needs the extra [report]")

from surefield.errors import DataError
from surefield.report import write_report

DRAWN = """
return [...document.querySelectorAll('.plot')].map((plot) => {
  const svg = plot.querySelector('svg.main-svg');
  const box = svg ? svg.getBoundingClientRect() : {width: 0, height: 0};
  return {
    id: plot.id, plotly: plot.classList.contains('js-plotly-plot'), width: box.width, height: box.height,
    traces: plot.querySelectorAll('.scatterlayer .trace').length,
    wanted: (plot.data || []).length,
    titles: [...plot.querySelectorAll('.xtitle, .ytitle')].map((title) => title.textContent),
  };
});
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        message = "needs the programs chromium and chromedriver, which are not installed"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for flag in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "disable-dev-shm-usage",
        "window-size=1280,1000",
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield session
    session.quit()


def opened(browser: Any, path: Path) -> list[dict[str, Any]]:
    """Open a page, fail on errors in the console, and return what was drawn."""
    browser.get(path.as_uri())
    drawn = browser.execute_script(DRAWN)
    severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not severe, severe
    return drawn


def copied(run_folder: Path, to: Path, *names: str) -> Path:
    to.mkdir()
    for name in names:
        shutil.copy(run_folder / name, to / name)
    return to


def test_the_report_of_a_loop_is_drawn_completely(browser: Any, run_folder: Path) -> None:
    path = write_report(run_folder)
    assert path == run_folder.resolve() / "report.html"
    drawn = opened(browser, path)
    assert len(drawn) == 14
    for figure in drawn:
        assert figure["plotly"], figure
        assert figure["width"] > 300, figure
        assert figure["height"] > 300, figure
        assert figure["traces"] == figure["wanted"] > 0, figure
        assert len(figure["titles"]) == 2, figure
    assert "ethanol-loop-test-data" in browser.title
    shown = [title.text for title in browser.find_elements("css selector", "h2")]
    assert shown == ["Learning curves", "Parity", "Uncertainty", "Picks", "Training", "Configuration", "Versions"]
    assert "with 105 labels (62 %)" in browser.find_element("css selector", ".verdict").text
    assert "moment_network" in browser.find_element("id", "configuration").text
    assert "farthest from the 20 structures" in browser.find_element("id", "picks").text
    overflow = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0


def test_the_report_fits_a_narrow_window(browser: Any, run_folder: Path) -> None:
    browser.set_window_size(520, 900)
    try:
        drawn = opened(browser, write_report(run_folder))
        width = browser.execute_script("return document.documentElement.clientWidth")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert all(0 < figure["width"] <= width for figure in drawn)
    finally:
        browser.set_window_size(1280, 1000)


@pytest.mark.parametrize(
    ("verb", "pieces", "sections"),
    [
        ("train", ["metrics.csv", "config.yaml"], ["Training", "Configuration"]),
        ("eval", ["predictions.npz"], ["Parity", "Uncertainty"]),
        ("uq", ["predictions.npz", "versions.json"], ["Parity", "Uncertainty", "Versions"]),
    ],
)
def test_reports_of_other_verbs_show_what_is_there(
    browser: Any, run_folder: Path, tmp_path: Path, verb: str, pieces: list[str], sections: list[str]
) -> None:
    folder = copied(run_folder, tmp_path / verb, *pieces)
    (folder / "summary.json").write_text(json.dumps({"verb": verb, "test": {"forces_mae": 0.0234}}))
    drawn = opened(browser, write_report(folder))
    assert drawn
    assert all(figure["traces"] == figure["wanted"] > 0 for figure in drawn)
    assert [title.text for title in browser.find_elements("css selector", "h2")] == sections
    assert "the force error is 23.4 meV/Å" in browser.find_element("css selector", ".verdict").text


def test_select_shows_the_picks_and_escapes_what_it_quotes(browser: Any, tmp_path: Path) -> None:
    selection = {
        "method": "lcmd",
        "picks": [4, 1],
        "gains": [0.5, 0.25],
        "reasons": ["</script><script>throw 1</script>", "far <b>away</b>"],
        "formulas": ["C2H6O", "CH4"],
    }
    (tmp_path / "selection.json").write_text(json.dumps(selection))
    assert len(opened(browser, write_report(tmp_path))) == 1
    rows = [row.text for row in browser.find_elements("css selector", "#picks tbody tr")]
    assert rows == ["1 4 C2H6O 0.5 </script><script>throw 1</script>", "2 1 CH4 0.25 far <b>away</b>"]


def test_doctor_and_failure_need_no_figure(browser: Any, tmp_path: Path) -> None:
    finding = {"fault": "stress has the opposite sign", "file": "a.xyz", "frames": [3, 4], "remedy": "flip_stress"}
    (tmp_path / "doctor.json").write_text(json.dumps({"n_frames": 10, "findings": [finding]}))
    assert opened(browser, write_report(tmp_path)) == []
    assert "1 finding;" in browser.find_element("css selector", ".verdict").text
    assert "stress has the opposite sign" in browser.find_element("id", "doctor").text
    (tmp_path / "error.log").write_text("Traceback ...\nDataError: no frames in a.xyz\n")
    opened(browser, write_report(tmp_path))
    assert browser.find_element("css selector", ".verdict.failed").text.endswith("no frames in a.xyz")


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]


def test_the_page_names_no_other_file_and_no_path(run_folder: Path) -> None:
    page = write_report(run_folder).read_text(encoding="utf-8")
    links = Links()
    links.feed(page)
    assert links.found
    assert all(link.startswith("#") for link in links.found)
    assert str(run_folder.parent) not in page
    assert page.count("plotly.js v") <= 1
    assert not list(run_folder.glob(".*")), "temporary files are left"


def test_a_run_without_any_score_still_has_a_page(tmp_path: Path) -> None:
    np.savez(tmp_path / "predictions.npz", forces=np.ones(3), forces_reference=np.full(3, np.nan))
    assert "no final numbers yet" in write_report(tmp_path).read_text(encoding="utf-8")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"not a run folder.*got notes\.txt.*config\.yaml"):
        write_report(tmp_path)
