"""The page in a real browser: nothing may fail in its console, every figure must be drawn."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
    if not (chromium and driver and importlib.util.find_spec("selenium")):
        message = "needs the programs chromium and chromedriver and the package selenium"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    from selenium import webdriver

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


def widths(browser: Any) -> dict[str, float]:
    """Widths of the page, of the window it is seen through and of its widest figure, in pixels."""
    return browser.execute_script(
        "return {page: document.documentElement.scrollWidth, window: document.documentElement.clientWidth,"
        "plot: Math.max(...[...document.querySelectorAll('svg.main-svg')].map((svg) => svg.clientWidth))}"
    )


def copied(run_folder: Path, to: Path, *names: str) -> Path:
    to.mkdir()
    for name in names:
        shutil.copy(run_folder / name, to / name)
    return to


def test_the_report_of_a_loop_is_drawn_completely(browser: Any, run_folder: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    path = write_report(run_folder)
    assert path == run_folder.resolve() / "report.html"
    drawn = opened(browser, path)
    assert len(drawn) == 16
    for figure in drawn:
        assert figure["plotly"], figure
        assert figure["width"] > 300, figure
        assert figure["height"] > 300, figure
        assert figure["traces"] == figure["wanted"] > 0, figure
        assert len(figure["titles"]) == 2, figure
    assert "ethanol-loop-test-data" in browser.title
    shown = [title.text for title in browser.find_elements("css selector", "h2")]
    assert shown == [
        "Learning curves",
        "Errors",
        "Uncertainty",
        "Picks",
        "Training",
        "Configuration",
        "Versions",
    ]
    assert "with 105 labels (62 %)" in browser.find_element("css selector", ".verdict").text
    assert "moment_network" in browser.find_element("id", "configuration").text
    assert "farthest from the 20 structures" in browser.find_element("id", "picks").text
    assert widths(browser)["page"] <= widths(browser)["window"]
    browser.set_window_size(520, 900)
    WebDriverWait(browser, 20).until(lambda _: widths(browser)["plot"] < widths(browser)["window"] <= 520)
    assert widths(browser)["page"] <= widths(browser)["window"]


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
    finding = {
        "check": "stress sign",
        "severity": "error",
        "message": "stress has the opposite sign",
        "frames": [3, 4],
        "size": 1.002,
        "remedy": "turn the sign",
    }
    test = {"source": "test.xyz", "n_frames": 4, "overview": {"elements": "Si (8 atoms)"}, "findings": []}
    (tmp_path / "doctor.json").write_text(json.dumps({"n_frames": 10, "findings": [finding], "test": test}))
    assert opened(browser, write_report(tmp_path)) == []
    assert "1 error: do not train" in browser.find_element("css selector", ".verdict").text
    text = browser.find_element("id", "doctor").text
    for told in ("stress has the opposite sign", "turn the sign", "test.xyz: 4 structures", "Si (8 atoms)"):
        assert told in text
    assert "{" not in text
    (tmp_path / "error.log").write_text("Traceback ...\nDataError: no frames in a.xyz\n")
    opened(browser, write_report(tmp_path))
    assert browser.find_element("css selector", ".verdict.failed").text.endswith("no frames in a.xyz")


class Outline(HTMLParser):
    """Titles of the sections, places of the figures and targets of all links of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.titles: list[str] = []
        self.plots = 0
        self.links: list[str] = []
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        self.plots += ("class", "plot") in attrs
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]

    def handle_data(self, data: str) -> None:
        if self._open == "h2" and data.strip():
            self.titles.append(data)


def test_the_page_names_no_other_file_and_no_path(run_folder: Path) -> None:
    page = write_report(run_folder).read_text(encoding="utf-8")
    links = Outline(page).links
    assert links
    assert all(link.startswith("#") for link in links)
    assert str(run_folder.parent) not in page
    assert page.count("<script>/**\n* plotly.js v") == 1
    assert not list(run_folder.glob(".*")), "temporary files are left"


@pytest.mark.parametrize(
    ("verb", "pieces", "titles", "n_plots"),
    [
        ("train", ["metrics.csv", "config.yaml"], ["Errors", "Training", "Configuration"], 3),
        ("eval", ["predictions.npz"], ["Errors", "Uncertainty"], 7),
        ("uq", ["predictions.npz", "versions.json"], ["Errors", "Uncertainty", "Versions"], 7),
    ],
)
def test_reports_of_other_verbs_show_what_is_there(
    run_folder: Path, tmp_path: Path, verb: str, pieces: list[str], titles: list[str], n_plots: int
) -> None:
    folder = copied(run_folder, tmp_path / verb, *pieces)
    (folder / "summary.json").write_text(json.dumps({"verb": verb, "test": {"forces_mae": 0.0234}}))
    page = write_report(folder).read_text(encoding="utf-8")
    assert Outline(page).titles == titles
    assert Outline(page).plots == n_plots
    assert "the force error is 23.4 meV/Å" in page


def test_tables_name_groups_and_the_worst_structures(run_folder: Path, tmp_path: Path) -> None:
    folder = copied(run_folder, tmp_path / "eval", "predictions.npz")
    page = write_report(folder).read_text(encoding="utf-8")
    with np.load(folder / "predictions.npz") as file:
        residuals = (file["forces"] - file["forces_reference"]).reshape(200, 27)
    worst = int(np.argmax(np.mean(residuals**2, axis=1)))
    table = page[page.index("Worst structures") :]
    assert table.index(f"frame {worst} of test.xyz") == table.index("frame ")
    assert "<td>hot</td>" in page[page.index("Errors by group") : page.index("Worst structures")]


def test_a_selection_shows_where_its_picks_lie(tmp_path: Path) -> None:
    reason = {"rule": "lcmd", "value": 0.5, "sigma": {"forces": 0.1}, "nearest": "frame 3 of a.xyz"}
    selection = {"method": "lcmd", "picks": [1], "gains": [0.5], "reasons": [reason | {"distance": 2.0}]}
    (tmp_path / "selection.json").write_text(json.dumps(selection))
    points, shares = np.arange(8.0).reshape(4, 2), np.array([0.9, 0.1])
    np.savez(tmp_path / "map.npz", train=points, pool=points, picks=np.array([1]), shares=shares)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert Outline(page).plots == 2
    assert "First component (90.0 % of the variance)" in page
    for words in ("σ 100 meV/Å (forces)", "nearest training structure: frame 3 of a.xyz, at distance 2"):
        assert words in page
    assert "The gain is the squared distance of features" in page


def test_a_run_without_any_score_still_has_a_page(tmp_path: Path) -> None:
    np.savez(tmp_path / "predictions.npz", forces=np.ones(3), forces_reference=np.full(3, np.nan))
    assert "no final numbers yet" in write_report(tmp_path).read_text(encoding="utf-8")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"not a run folder.*got notes\.txt.*config\.yaml"):
        write_report(tmp_path)
