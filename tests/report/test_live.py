"""The page of a loop under way: what it says, and in a real browser that it is drawn without errors."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from tests.report.loop_folder import CAUSE, write_loop_folder
from tests.report.test_html import browser, opened  # noqa: F401

from surefield.errors import DataError
from surefield.report import loop_sections, write_loop_page, write_report
from surefield.report.loop_state import ends_of, load_loop


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A loop that labels the picks of its round 3; not to be changed by a test."""
    return write_loop_folder(tmp_path_factory.mktemp("loops") / "ethanol-loop")


class Words(HTMLParser):
    """The text of a page, and the sources that it names."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.sources: list[str] = []

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [str(value) for name, value in attrs if name in ("src", "srcset") and value]


def words(path: Path) -> str:
    parser = Words()
    parser.feed(path.read_text(encoding="utf-8"))
    assert parser.sources == []
    text = " ".join(" ".join(parser.text).split())
    assert "could not be drawn" not in text
    return text


def test_the_state_of_a_loop_is_read(folder):
    state = load_loop(folder)
    assert [one.number for one in state.rounds] == [0, 1, 2, 3]
    assert [one.n_labels for one in state.rounds] == [10, 24, 38, 52]
    assert state.rounds[0].errors["forces_mae"] == pytest.approx(0.21)
    assert state.rounds[0].judged == "audit of 3"
    assert state.rounds[2].n_candidates == 78
    assert state.rounds[2].n_picked == 12
    assert ends_of(state.rounds[3].walkers) == {"finished": 8, "passed the limit": 0, "broke": 0}
    assert sum(ends_of(state.rounds[0].walkers).values()) == 8
    assert ends_of(state.rounds[0].walkers)["broke"] == 1
    purpose, number, choices = state.latest
    assert (purpose, number, len(choices)) == ("pick", 3, 12)
    states = "".join(choice.state[0] for choice in choices)
    assert states == "llllfllwwwww"
    assert choices[1].atoms.get_chemical_formula() == "C6H6"
    assert (state.n_labelled, state.n_failed) == (10 + 4 * 3 + 3 * 11 + 6, 4)
    paid = [e for e in state.events if e["event"] in ("labelled", "failed")]
    assert state.core_hours == pytest.approx(sum(e["core_seconds"] for e in paid) / 3600)
    assert state.ended == ""


def test_the_page_says_where_the_loop_is(folder):
    text = words(write_loop_page(folder))
    assert "Round 3: labelling the picks, 6 of 12 done, 1 failed." in text
    assert "running" in text
    assert "audit of 3, round 3" in text
    assert "Walkers of round 3" in text
    assert CAUSE in text
    assert "accuracy 1.0; electronic_temperature 1000" in text
    assert "farthest member of the largest cluster" in text
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert html.count('<canvas class="structure"') == 12
    assert html.count('<svg class="chart"') == 5
    assert "location.reload" in html
    assert len(html) < 200_000
    assert [path.name for path in folder.glob(".*")] == []


def test_shares_of_few_energies_are_not_drawn(folder):
    state = load_loop(folder)
    scores = {"forces": {"coverage_68": 0.7, "n_structures": 2}}
    few = [replace(one, calibration=scores | {"energy": {"coverage_68": 0.5, "n_structures": 2}})
           for one in state.rounds]  # fmt: skip
    for rounds, energies in ((state.rounds, True), (few, False)):
        sections = loop_sections.loop_sections(replace(state, rounds=tuple(rounds)))
        (section,) = (one for one in sections if one.key == "rounds")
        drawn = section.html[section.html.index("Calibration of") :]
        drawn = drawn[: drawn.index("</svg>")]
        assert ("energy" in drawn) == energies
        assert ("Force errors within one σ" in drawn) != energies


def test_walkers_of_all_kinds_have_their_figures(tmp_path):
    folder = write_loop_folder(tmp_path / "two", n_rounds=2)
    text = words(write_loop_page(folder))
    assert "σ along dynamics, round 1" in text
    assert "σ along relaxations, round 1" in text
    assert "bfgs" in text


@pytest.mark.parametrize(
    ("upto", "phase"),
    [
        ("start", "The loop has not begun to label."),
        ("initial", "Round 0: labelling the first structures, 0 of 10 done."),
        ("labelled", "Round 0: fitting the potential."),
        ("round", "Round 0: exploring with its potential."),
        ("explored", "Round 0: choosing what to label."),
        ("drawn", "Round 0: labelling the audit, 0 of 3 done."),
        ("audited", "Round 0: choosing what to label."),
        ("picked", "Round 0: labelling the picks, 0 of 12 done."),
    ],
)
def test_every_phase_has_its_sentence(folder, tmp_path, upto, phase):
    lines = (folder / "journal.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["event"] for line in lines]
    end = kinds.index(upto) + (10 if upto == "labelled" else 1)
    (tmp_path / "journal.jsonl").write_text("\n".join(lines[:end]) + "\n")
    assert load_loop(tmp_path).phase() == phase
    assert phase in words(write_loop_page(tmp_path))


def test_a_training_that_gave_no_potential_is_told(folder, tmp_path):
    path = tmp_path / "journal.jsonl"
    lines = (folder / "journal.jsonl").read_text().splitlines()
    begun = lines[: [json.loads(line)["event"] for line in lines].index("round")]
    event = {"event": "unfitted", "fit": "round 0", "n_labels": 10, "cause": "no epoch was better"}
    path.write_text("\n".join([*begun, json.dumps(event)]) + "\n")
    assert "The loop stopped: round 0 has no potential: no epoch was better" in words(
        write_loop_page(tmp_path)
    )
    with path.open("a") as file:
        file.write('{"event": "changed", "changes": {"training.epochs": [2, 40]}}\n')
    assert load_loop(tmp_path).phase() == "The loop goes on with other settings."


def test_a_loop_that_ended_or_failed_is_not_read_again(tmp_path):
    folder = write_loop_folder(tmp_path / "ended", ended=True)
    text = words(write_loop_page(folder))
    assert "The loop has ended by rounds: 4 are done." in text
    assert "location.reload" not in (folder / "report.html").read_text()
    with (folder / "journal.jsonl").open("a") as file:
        file.write('{"event": "changed", "changes": {"loop.n_rounds": [4, 8]}}\n')
    text = words(write_loop_page(folder))
    assert "loop.n_rounds 4 8" in text
    assert "running" in text
    (folder / "error.log").write_text("Traceback\nDataError: <b>atoms</b> too close\n")
    text = words(write_loop_page(folder))
    assert "The loop failed: DataError: <b>atoms</b> too close" in text
    assert "location.reload" not in (folder / "report.html").read_text()


def test_missing_pieces_are_left_out(folder, tmp_path):
    lines = (folder / "journal.jsonl").read_text().splitlines()
    (tmp_path / "journal.jsonl").write_text("\n".join(lines) + '\n{"event": "torn')
    (tmp_path / "rounds" / "001").mkdir(parents=True)
    (tmp_path / "rounds" / "001" / "walkers.json").write_text("{")
    text = words(write_loop_page(tmp_path))
    assert "not drawn" in text
    assert "Walkers of round" not in text
    (tmp_path / "journal.jsonl").unlink()
    assert "has not begun" in words(write_loop_page(tmp_path))
    with pytest.raises(DataError, match="no run folder"):
        write_loop_page(tmp_path / "nowhere")


def test_the_page_in_a_browser(folder, browser):  # noqa: F811
    opened(browser, write_loop_page(folder))
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('canvas.structure')].map((c) => [c.dataset.drawn, c.width, "
        "new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size])"
    )
    assert len(drawn) == 12
    assert all(done == "yes" and width > 200 and shades > 50 for done, width, shades in drawn)
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('svg.chart')].map((s) => "
        "[...s.querySelectorAll('text')].map((t) => t.getBBox())"
        ".map((b) => [b.x, b.x + b.width, s.viewBox.baseVal.width]))"
    )
    for left, right, width in (box for texts in boxes for box in texts):
        assert -width < left, "words beyond the figure"
        assert right <= width + 1
    before = browser.execute_script("return document.querySelector('canvas.structure').toDataURL()")
    from selenium.webdriver import ActionChains

    canvas = browser.find_element("css selector", "canvas.structure")
    ActionChains(browser).drag_and_drop_by_offset(canvas, 40, 25).perform()
    after = browser.execute_script("return document.querySelector('canvas.structure').toDataURL()")
    assert after != before


def test_the_report_of_an_ended_loop_has_the_same_sections(tmp_path, browser):  # noqa: F811
    folder = write_loop_folder(tmp_path / "ended", ended=True)
    path = write_report(folder)
    text = words(path)
    for title in ("Rounds", "Walkers", "Latest choices", "Costs", "Failures"):
        assert title in text
    opened(browser, path)
    assert browser.execute_script("return document.querySelectorAll('canvas.structure').length") == 12


def test_what_cannot_be_drawn_is_said_and_ends_no_loop(folder, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("made to fail")

    monkeypatch.setattr(loop_sections, "_cost_chart", broken)
    html = write_loop_page(folder).read_text(encoding="utf-8")
    assert "This section could not be drawn: ZeroDivisionError: made to fail" in html
    assert "Walkers of round 3" in html


def test_many_labels_are_no_burden(tmp_path):
    folder = write_loop_folder(tmp_path / "long", n_rounds=2)
    event = {"event": "labelled", "purpose": "pick", "round": 1, "seconds": 1.0, "core_seconds": 1.0}
    with (folder / "journal.jsonl").open("a") as file:
        for k in range(10_000):
            file.write(json.dumps({**event, "structure": f"x{k}", "seconds": float(np.exp(k % 7))}) + "\n")
    path = write_loop_page(folder)
    assert path.stat().st_size < 500_000
    assert load_loop(folder).n_labelled > 10_000
