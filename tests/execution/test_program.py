from __future__ import annotations

from pathlib import Path

import pytest

from surefield.errors import ConfigError, ExecutionError
from surefield.execution.program import check_program, last_lines, run_program


def test_what_a_program_printed(tmp_path: Path) -> None:
    assert run_program("echo 'one two'", tmp_path, tmp_path / "log") == "one two\n"
    (tmp_path / "broken").write_text("1\n2\n====\n3\nit broke\n")
    with pytest.raises(ExecutionError, match=r"sh ended with exit code 3: 2 \| 3 \| it broke"):
        run_program("sh -c 'cat broken; exit 3'", tmp_path, tmp_path / "log")
    with pytest.raises(ExecutionError, match="ended with signal 9: it printed nothing"):
        run_program("sh -c 'kill -9 $$'", tmp_path, tmp_path / "log")
    with pytest.raises(ExecutionError, match="cannot start"):
        run_program("no_such_program", tmp_path, tmp_path / "log")
    assert last_lines("") == "it printed nothing"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", "the command of the tool is empty"),
        ("'a", "cannot be read"),
        ("nowhere x", "the tool needs .*get it"),
    ],
)
def test_commands_that_cannot_be_run(command: str, words: str) -> None:
    check_program("echo 1", "get it")
    with pytest.raises(ConfigError, match=words):
        check_program(command, "get it", "the tool")
