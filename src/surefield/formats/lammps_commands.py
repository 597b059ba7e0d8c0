"""Commands of LAMMPS input files: continued lines, comments, quotes and variables as LAMMPS reads them."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from surefield.errors import PotentialError

__all__ = ["Variables", "commands"]

#: Style and content of each variable.
Variables = dict[str, tuple[str, str]]

_QUOTED: Final = re.compile(r'"""(.*?)"""|"([^"]*)"|\'([^\']*)\'|(\S+)', re.DOTALL)
_TOKEN: Final = re.compile(r"\s*(?:(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|(\w+)|(.))")
#: Operators from loose to tight; LAMMPS evaluates each level from left to right, powers too.
_OPERATORS: Final[tuple[Mapping[str, Callable[[float, float], float]], ...]] = (
    {"+": operator.add, "-": operator.sub},
    {"*": operator.mul, "/": operator.truediv, "%": math.fmod},
    {"^": operator.pow},
)
_FUNCTIONS: Final[Mapping[str, Callable[[float], float]]] = {
    **{name: getattr(math, name) for name in ("sqrt", "exp", "sin", "cos", "tan", "asin", "acos", "atan")},
    **{"abs": abs, "ln": math.log, "log": math.log10, "ceil": math.ceil, "floor": math.floor},
}
#: Styles of variables that hold text or a list of which the first is taken.
_TEXTS: Final = ("index", "string")


def commands(text: str, where: object, variables: Variables | None = None) -> list[list[str]]:
    """Words of every command, variables replaced by their values; `variable` itself is carried out.

    Args:
        text: of the file.
        where: its name, for errors.
        variables: those that are defined; the file adds its own.

    Raises:
        PotentialError: a quote that does not end, a variable that is not defined or not of the styles index,
            string, equal and internal, or a formula that cannot be evaluated.
    """
    variables = {} if variables is None else variables
    result = []
    for number, line in _lines(text):
        try:
            words = _words(_substituted(line, variables))
            if words[:1] == ["variable"]:
                _define(words[1:], variables)
            elif words:
                result.append(words)
        except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
            raise PotentialError(
                "unusable LAMMPS command", where=f"{where}, line {number}", got=f"{line.strip():.80}: {error}"
            ) from None
    return result


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their number; '&' at the end and an open triple quote take the next one along."""
    whole, start = "", 1
    for number, line in enumerate(text.splitlines(), 1):
        start = start if whole else number
        whole += line
        if whole.rstrip().endswith("&"):
            whole = whole.rstrip()[:-1] + " "
        elif whole.count('"""') % 2:
            whole += "\n"
        else:
            yield start, whole
            whole = ""
    if whole:
        yield start, whole


def _substituted(line: str, variables: Variables) -> str:
    """The line without its comment, variables outside of quotes replaced."""
    result, quote, place = "", "", 0
    while place < len(line):
        mark = line[place]
        if quote:
            if line.startswith(quote, place):
                result, place, quote = result + quote, place + len(quote), ""
                continue
        elif mark in "\"'":
            quote = '"""' if line.startswith('"""', place) else mark
            result, place = result + quote, place + len(quote)
            continue
        elif mark == "#":
            return result
        elif mark == "$":
            value, place = _value_at(line, place + 1, variables)
            result += value
            continue
        result, place = result + mark, place + 1
    if quote:
        raise ValueError("a quote does not end")
    return result


def _value_at(line: str, place: int, variables: Variables) -> tuple[str, int]:
    """Value of $x, ${name} or $(formula), and where the line goes on."""
    if line[place : place + 1] == "(":
        depth, end = 0, place
        while end < len(line):
            depth += {"(": 1, ")": -1}.get(line[end], 0)
            end += 1
            if depth == 0:
                break
        formula, _, form = line[place + 1 : end - 1].partition(":")
        return (form or "%.15g") % _number(formula, variables), end
    if line[place : place + 1] == "{":
        end = line.find("}", place)
        if end < 0:
            raise ValueError("'${' without '}'")
        return _value(line[place + 1 : end], variables), end + 1
    return _value(line[place : place + 1], variables), place + 1


def _words(line: str) -> list[str]:
    return [next(g for g in match.groups() if g is not None) for match in _QUOTED.finditer(line)]


def _define(words: list[str], variables: Variables) -> None:
    name, style, *values = words
    if style == "delete":
        variables.pop(name, None)
    # LAMMPS keeps the first definition of a list, so that the command line can set it.
    elif style != "index" or name not in variables:
        variables[name] = (style, " ".join(values) if style == "equal" else (values or [""])[0])


def _value(name: str, variables: Variables) -> str:
    if name not in variables:
        raise ValueError(f"variable {name!r} is not defined")
    style, text = variables[name]
    if style in _TEXTS:
        return text
    return f"{_number(f'v_{name}', variables):.15g}"


def _number(formula: str, variables: Variables) -> float:
    tokens = [match.groups() for match in _TOKEN.finditer(formula.strip())]
    value, end = _sum(tokens, 0, 0, variables)
    if end < len(tokens):
        raise ValueError(f"the formula {formula!r} is not understood")
    return value


def _sum(tokens: list, place: int, level: int, variables: Variables) -> tuple[float, int]:
    """Value of a chain of operators of one level and tighter ones, and where it ends."""
    if level == len(_OPERATORS):
        return _factor(tokens, place, variables)
    value, place = _sum(tokens, place, level + 1, variables)
    while place < len(tokens) and tokens[place][2] in _OPERATORS[level]:
        right, end = _sum(tokens, place + 1, level + 1, variables)
        value, place = float(_OPERATORS[level][tokens[place][2]](value, right)), end
    return value, place


def _factor(tokens: list, place: int, variables: Variables) -> tuple[float, int]:
    """Value of a number, a variable, a function, parentheses, or one of them with a sign."""
    number, name, mark = tokens[place] if place < len(tokens) else ("", "", "")
    if number:
        return float(number), place + 1
    if mark == "-":
        value, place = _factor(tokens, place + 1, variables)
        return -value, place
    if mark == "(" or name in _FUNCTIONS:
        value, end = _sum(tokens, place + 1 + bool(name), 0, variables)
        if end >= len(tokens) or tokens[end][2] != ")":
            raise ValueError("')' is missing")
        return (_FUNCTIONS[name](value) if name else value), end + 1
    if name == "PI":
        return math.pi, place + 1
    if name and name.startswith("v_"):
        style, text = variables.get(name[2:], ("", ""))
        if style not in (*_TEXTS, "equal", "internal"):
            what = f"of style {style!r}" if style else "not defined"
            raise ValueError(f"variable {name[2:]!r} is {what}")
        return (_number(text, variables) if style == "equal" else float(text)), place + 1
    raise ValueError(f"{(name or mark)!r} is not understood in a formula")
