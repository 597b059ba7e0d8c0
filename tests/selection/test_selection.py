import json
import sys

import numpy as np
import pytest

from surefield.errors import ConfigError, DataError, ExecutionError
from surefield.selection import Dropped, Reason, Selection, select_rows


@pytest.fixture
def picks():
    rows = np.random.default_rng(0).normal(size=(30, 4))
    return select_rows("lcmd", rows[5:], rows[:5], 6, scores={"sigma": np.arange(1, 26)})


def test_a_selection_is_a_sequence_of_int(picks):
    as_list = list(picks)
    assert len(picks) == 6
    assert all(type(index) is int for index in as_list)
    assert [picks[0], picks[-1], *picks[1:5]] == [as_list[0], as_list[-1], *as_list[1:5]]
    assert as_list[2] in picks
    assert picks.index(as_list[3]) == 3
    assert [("abcdefghijklmnopqrstuvwxyz")[index] for index in picks]


def test_a_selection_is_frozen(picks):
    with pytest.raises(AttributeError):
        picks.stopped = "no"
    with pytest.raises(ValueError, match="read-only"):
        picks.indices[0] = 3
    with pytest.raises(TypeError):
        picks.config["seed"] = 3


def test_a_selection_is_a_table(picks, monkeypatch):
    table = picks.to_dataframe()
    assert list(table) == ["index", "gain", "squared_distance", "rule", "score", "score_value"]
    assert table["index"].tolist() == list(picks)
    np.testing.assert_array_equal(table["squared_distance"], picks.squared_distances)
    assert (table["score_value"] == table["index"] + 1.0).all()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="pip install pandas"):
        picks.to_dataframe()


def test_reasons_name_rule_value_and_score(picks):
    assert picks.reasons[2] == Reason("lcmd", picks.gains[2], "sigma", picks[2] + 1.0)
    random = select_rows("random", np.ones((4, 1)), None, 2)
    assert np.isnan(random.gains).all()
    assert random.reasons[0] == Reason("random", None)


@pytest.mark.parametrize("features", [False, True])
def test_save_and_load(picks, tmp_path, features):
    path = tmp_path / "round-1.npz"
    path.write_bytes(b"older")
    picks.save(path, features=features)
    assert [entry.name for entry in tmp_path.iterdir()] == ["round-1.npz"]
    back = Selection.load(path)
    assert list(back) == list(picks)
    np.testing.assert_array_equal(back.gains, picks.gains)
    np.testing.assert_array_equal(back.squared_distances, picks.squared_distances)
    for name in ("n_requested", "stopped", "reasons", "dropped", "notes"):
        assert getattr(back, name) == getattr(picks, name)
    assert dict(back.config) == dict(picks.config)
    if features:
        np.testing.assert_array_equal(back.g_pool, picks.g_pool)
        np.testing.assert_array_equal(back.g_train, picks.g_train)
    else:
        assert back.g_pool is None


def test_dropped_and_an_early_end_survive_saving(tmp_path):
    path = tmp_path / "picks"
    short = Selection([3], [np.nan], [1.0], 2, stopped="exhausted", dropped=[Dropped(1, "copy", 0, "train")])
    short.save(path)
    back = Selection.load(path)
    assert back.dropped == (Dropped(1, "copy", 0, "train"),)
    assert (back.stopped, back.n_requested) == ("exhausted", 2)
    assert np.isnan(back.gains[0])


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "picks.npz"
    Selection([1], [1.0], [1.0], 1).save(path)
    old = path.read_bytes()
    with pytest.raises(TypeError):
        Selection([1], [1.0], [1.0], 1, config={"features": object()}).save(path)
    # A file that cannot be renamed onto a folder: the temporary file must go.
    (tmp_path / "folder").mkdir()
    with pytest.raises(ExecutionError, match="folder"):
        Selection([1], [1.0], [1.0], 1).save(tmp_path / "folder")
    assert path.read_bytes() == old
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "picks.npz"]


def test_the_header_is_json_and_arrays_need_no_pickle(picks, tmp_path):
    path = tmp_path / "picks.npz"
    picks.save(path)
    with np.load(path, allow_pickle=False) as file:
        header = json.loads(file["header"].tobytes())
        np.testing.assert_array_equal(file["indices"], list(picks))
    assert header["config"]["method"] == "lcmd"


@pytest.mark.parametrize("content", [b"", b"not a zip", None, "other"])
def test_files_that_are_no_selection(tmp_path, content):
    path = tmp_path / "picks.npz"
    if content == "other":
        np.savez(path, indices=np.arange(3))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"picks\.npz"):
        Selection.load(path)


def test_a_truncated_file_is_a_clear_error(picks, tmp_path):
    path = tmp_path / "picks.npz"
    picks.save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="damaged"):
        Selection.load(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 1], [1.0, 1.0], [1.0, 1.0], 2), "different indices"),
        (([-1], [1.0], [1.0], 1), "different indices"),
        (([1, 2], [1.0], [1.0, 1.0], 2), "gains must have one entry per pick"),
        (([1], [1.0], [1.0], 2), "1 of 2 picks without a reason"),
    ],
)
def test_impossible_selections(arguments, message):
    with pytest.raises(DataError, match=message):
        Selection(*arguments)


def test_a_reason_reads_as_words_and_comes_back_from_its_dictionary():
    plain, scored = Reason("random", None), Reason("lcmd", 0.25, "sigma", 1.5)

    assert str(plain) == "drawn at random"
    assert str(scored) == (
        "farthest member of the largest cluster around a structure that is labelled or picked before, "
        "weighted by its sigma of 1.5 (lcmd 0.25)"
    )
    ranked = Reason("max_diag", 2.0, "forces_variance", 2.0)
    assert str(ranked) == "largest expected squared force error of 2 (eV/Å)² (max_diag 2)"
    assert plain.to_dict() == {"rule": "random", "value": None}
    assert all(Reason(**reason.to_dict()) == reason for reason in (plain, scored))
