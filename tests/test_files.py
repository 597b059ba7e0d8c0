from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from surefield.errors import DataError, ExecutionError
from surefield.files import (
    append_jsonl,
    append_line,
    atomic_path,
    drop_torn_line,
    json_text,
    read_jsonl,
    write_atomic,
)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("data", ["sigma σ\r\n", b"\x00\xff"])
def test_write_and_replace(tmp_path: Path, data: str | bytes) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old")
    write_atomic(path, data)
    assert path.read_bytes() == (data.encode() if isinstance(data, str) else data)
    assert names(tmp_path) == ["a.txt"]


def test_the_rights_follow_the_mask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_the_temporary_file_is_beside_and_keeps_the_suffix(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x.npz") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".npz"
        assert not (tmp_path / "x.npz").exists()
        np.savez(temporary, a=np.arange(3))
    assert np.load(tmp_path / "x.npz")["a"].tolist() == [0, 1, 2]


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_atomic(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_an_error_inside_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def write() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("function", ["replace", "fsync"])
@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "no permission")]
)
def test_a_failing_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int, message: str
) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(ExecutionError, match=rf"cannot write .*a; .*{message}"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_full_disk_inside_the_block(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_path(tmp_path / "a"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ExecutionError, match="disk is full"):
        write()
    assert names(tmp_path) == []


def test_another_error_of_the_block_stays_itself(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_path(tmp_path / "a"):
            (tmp_path / "not-there").read_text()

    with pytest.raises(FileNotFoundError, match="not-there"):
        write()
    assert names(tmp_path) == []


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match="folder does not exist"):
        write_atomic(tmp_path / "b" / "a", "x")
    with pytest.raises(ExecutionError, match="folder does not exist"):
        append_line(tmp_path / "b" / "a", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ExecutionError, match="folder of this name"):
        write_atomic(tmp_path / "folder", "x")


def test_lines_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    append_line(path, "a,b")
    append_line(path, "1,σ")
    assert path.read_text("utf-8") == "a,b\n1,σ\n"
    with pytest.raises(DataError, match="not one line"):
        append_line(path, "x\ny")


def test_a_line_that_does_not_fit_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j.jsonl"
    append_line(path, '{"a":1}')
    write = os.write

    def nearly_full(handle: int, data: bytes) -> int:
        if len(data) > 5:
            return write(handle, data[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", nearly_full)
    with pytest.raises(ExecutionError, match="disk is full"):
        append_line(path, "123456789")
    assert path.read_text() == '{"a":1}\n'


def test_a_torn_line_is_left_out_and_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    append_jsonl(path, {"a": 1})
    with path.open("a") as file:
        file.write('{"b": "σ')
    torn = path.read_bytes()
    assert read_jsonl(path) == [{"a": 1}]
    assert path.read_bytes() == torn
    assert drop_torn_line(path) == '{"b": "σ'
    append_jsonl(path, {"b": 2})
    assert read_jsonl(path) == [{"a": 1}, {"b": 2}]
    assert drop_torn_line(path) == ""


def test_every_cut_of_a_file_is_read_up_to_the_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    for i in range(3):
        append_jsonl(path, {"i": i, "name": "σ" * i})
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        expected = whole[:length].count(b"\n")
        assert [record["i"] for record in read_jsonl(path)] == list(range(expected))
        drop_torn_line(path)
        assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:expected])


def test_a_long_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b"a\n" + b"x" * 200_000)
    assert len(drop_torn_line(path)) == 200_000
    assert path.read_bytes() == b"a\n"
    path.write_bytes(b"x" * 70_000)
    drop_torn_line(path)
    assert path.read_bytes() == b""


def test_a_missing_file_has_no_lines(tmp_path: Path) -> None:
    assert read_jsonl(tmp_path / "j") == []
    assert drop_torn_line(tmp_path / "j") == ""
    assert names(tmp_path) == []


@pytest.mark.parametrize("line", ["{'a': 1}", "[1]", "", "\x00\x00"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text(f'{{"a": 1}}\n{line}\n{{"a": 2}}\n')
    with pytest.raises(DataError, match=r"j\.jsonl:2"):
        read_jsonl(path)


def test_a_killed_writer_leaves_whole_lines(tmp_path: Path) -> None:
    """A process is killed while it appends and rewrites; both files must be readable."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "import types; package = types.ModuleType('surefield')\n"
        "package.__path__ = [sys.argv[2] + '/surefield']\n"
        "sys.modules['surefield'] = package  # without JAX, for a quick start\n"
        "from surefield.files import append_jsonl, write_atomic\n"
        "for i in range(10**6):\n"
        "    append_jsonl(sys.argv[1] + '/j', {'i': i}); write_atomic(sys.argv[1] + '/a', str(i) * 1000)\n"
        "    print(i, flush=True)\n"
    )
    source = str(Path(__file__).parents[1] / "src")
    command = [sys.executable, "-c", code, str(tmp_path), source]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 20:
                process.kill()
                break
    records = read_jsonl(tmp_path / "j")
    assert [record["i"] for record in records] == list(range(len(records)))
    assert len(records) >= 21
    text = (tmp_path / "a").read_text()
    assert text == text[: len(text) // 1000] * 1000


def test_json_is_deterministic_and_exact() -> None:
    value = {"b": np.float64(0.1) + 0.2, "a": np.arange(2), "c": (np.int64(3), np.bool_(True), None, "σ")}
    text = json_text(value)
    assert text == '{"a": [0, 1], "b": 0.30000000000000004, "c": [3, true, null, "σ"]}'
    assert text == json_text(dict(reversed(value.items())))
    numbers = np.random.default_rng(0).normal(size=100) * 1e-7
    assert json.loads(json_text(numbers)) == numbers.tolist()


def test_json_has_no_nan() -> None:
    assert json_text({"a": [float("nan"), np.inf, np.array(np.nan)]}) == '{"a": [null, null, null]}'
    with pytest.raises(DataError, match=r"PosixPath|WindowsPath"):
        json_text({"a": Path("x")})
