"""Commands as LAMMPS reads them: the same words and numbers."""

from __future__ import annotations

import pytest

from surefield.errors import PotentialError
from surefield.formats.lammps_commands import commands


def words(text: str) -> list[list[str]]:
    return commands(text, "in.lammps")


def test_lines_go_on_and_comments_end():
    text = "pair_style &\n  zbl 4 & \n 4.8  # snap\n\n# pair_style x &\nrun 1\n  \t mass * 'a # b' \"c d\"\n"
    assert words(text) == [["pair_style", "zbl", "4", "4.8"], ["mass", "*", "a # b", "c d"]]
    assert words('print """a\n"b" c"""\nrun 0 &') == [["print", 'a\n"b" c'], ["run", "0"]]


@pytest.mark.parametrize(
    ("define", "use", "value"),
    [
        ("variable z equal 73", "${z}", "73"),
        ("variable z index 49 50", "$z", "49"),
        ("variable z index 49\nvariable z index 50", "$z", "49"),
        ("variable z equal 1\nvariable z equal 2", "$z", "2"),
        ('variable z string "a b"', "'$z' x${z}y", "$z xa by"),
        ("variable a equal 4\nvariable z equal v_a*1.2-0.8", "${z}", "4"),
        ("variable a index 4", "$(v_a+0.8)", "4.8"),
        ("", "$(-2^2) $(2^3^2) $(7/2*2) $(10%4)", "4 64 7 2"),
        ("", "$(sqrt(16)+PI-3.141592653589793:%.2f)", "4.00"),
        ("variable z equal 1/3", "${z}", "0.333333333333333"),
    ],
)
def test_variables(define, use, value):
    assert words(f"{define}\nx {use}")[-1][1:] == (value.split() if "'" not in use else ["$z", "xa", "by"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x ${none}", "line 1; got x .{7}: variable 'none' is not defined"),
        ("\nx ${z", r"line 2.*without '}'"),
        ("x 'open", "a quote does not end"),
        ("variable z loop 10\nx $z", "of style 'loop'"),
        ("variable z equal v_z\nx $z", "recursion"),
        ("x $(1/0)", "division by zero"),
        ("x $(2+)", "not understood in a formula"),
        ("x $(sqrt(2)", "not understood|missing"),
        ("x $(2 3)", "is not understood"),
        ("variable z", "variable z"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(text, message):
    with pytest.raises(PotentialError, match=message):
        words(text)
