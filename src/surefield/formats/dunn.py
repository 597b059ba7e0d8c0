"""Parameter files of KIM's driver of dropout networks, DUNN__MD_292677547454: read and written.

The driver keeps one network and sums over all neighbours whatever their element, so the files hold potentials
of one element.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from surefield.descriptors.behler import behler_functions
from surefield.descriptors.function_lists import Function
from surefield.descriptors.symmetry_functions import SymmetryFunctions
from surefield.errors import PotentialError
from surefield.files import write_atomic
from surefield.formats.kim import CMAKE
from surefield.potentials.dropout_network import DropoutNetwork, Layer
from surefield.text_file import check_range, number, read_text, whole

__all__ = ["DRIVER", "FILES", "dropout_network_from_text", "read_dropout_files", "write_dropout_files"]

T = TypeVar("T")

DRIVER: Final = "DUNN__MD_292677547454_000"
#: Descriptor, network, and members, in the order that the driver reads them.
FILES: Final = ("descriptor.params", "NN.params", "dropout_binary.params")
_COLUMNS: Final = {"g2": ("eta", "Rs"), "g4": ("zeta", "lambda", "eta")}
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def read_dropout_files(folder: str | Path) -> DropoutNetwork:
    """Read a network from the parameter files in a folder; without a file of members it has none.

    Its predictions are those of the driver's default: the mean over the members.

    Raises:
        PotentialError: a file that is missing, cut short or damaged, or something that the files can say and
            surefield has not: several elements, other functions, other activations.
    """
    folder = Path(folder)
    missing = [name for name in FILES[:2] if not (folder / name).is_file()]
    if missing:
        raise PotentialError(
            "files of a dropout network are missing", where=folder, got=missing, expected=FILES
        )
    texts = [read_text(folder / name) if (folder / name).is_file() else "0" for name in FILES]
    return dropout_network_from_text(*texts)


def dropout_network_from_text(descriptor: str, network: str, members: str = "0") -> DropoutNetwork:
    """Network from the content of the three files; see `read_dropout_files`."""
    functions, mean, scale = _read_descriptor(_Tokens(descriptor, FILES[0]))
    layers, rate = _read_layers(_Tokens(network, FILES[1]), functions.width)
    masks = _read_masks(
        _Tokens(members, FILES[2]), [functions.width, *(b.size for _, b in layers[:-1])], rate
    )
    neurons = [b.size for _, b in layers[:-1]]
    potential = DropoutNetwork(functions, neurons, rate, norm=mean is not None)
    if masks and len(masks[0]):
        potential = potential.with_masks(masks, rate)
    hidden = [Layer(jnp.asarray(w)[None], jnp.asarray(b)[None]) for w, b in layers[:-1]]
    last, bias = layers[-1]
    if mean is None or scale is None:
        mean, scale = np.zeros(functions.width), np.ones(functions.width)
    values = (mean, scale, hidden, last.T, bias, jnp.ones((), bool))
    return eqx.tree_at(
        lambda p: (p.mean, p.scale, p.layers, p.readout, p.bias, p.fitted),
        potential,
        tuple(jnp.asarray(v) if isinstance(v, np.ndarray) else v for v in values),
    )


def write_dropout_files(folder: str | Path, potential: DropoutNetwork, name: str) -> list[Path]:
    """Write the parameter files and a CMakeLists.txt with which the KIM tools install the folder.

    The energy offset of the element becomes part of the output bias.

    Args:
        folder: made if missing.
        potential: of one element, with or without members.
        name: of the KIM model.

    Raises:
        PotentialError: several elements, other functions than G2 and G4, or a name KIM cannot have.
    """
    if not _NAME.fullmatch(name):
        raise PotentialError(f"{name!r} cannot name a KIM model: letters, digits and underscores only")
    _check_writable(potential)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = (
        _descriptor_text(potential),
        _network_text(potential),
        _members_text(potential),
        CMAKE.format(name=name, driver=DRIVER, files=" ".join(f'"{file}"' for file in FILES)),
    )
    paths = [folder / file for file in (*FILES, "CMakeLists.txt")]
    for path, text in zip(paths, texts, strict=True):
        write_atomic(path, text)
    return paths


class _Tokens:
    """Words of a file, comments removed, taken one after the other."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self._words = [word for line in text.splitlines() for word in line.partition("#")[0].split()]
        self._used = 0

    def take(self, what: str, kind: Callable[[str], T]) -> T:
        """The next word as a number or text.

        Raises:
            PotentialError: no word left, or one of another kind.
        """
        if self._used == len(self._words):
            raise PotentialError(f"{self.name} is cut short: {what} is missing")
        word = self._words[self._used]
        self._used += 1
        try:
            return kind(word)
        except (ValueError, KeyError):
            raise self.error(what, word) from None

    def many(self, what: str, n: int) -> Float[np.ndarray, " n"]:
        """The next n numbers, finite."""
        left = len(self._words) - self._used
        if left < n:
            raise PotentialError(f"{self.name} is cut short: {what} needs {n} numbers, {left} are left")
        return np.array([self.take(what, number) for _ in range(n)])

    def end(self) -> None:
        """Raise `PotentialError` unless all words have been taken."""
        if self._used < len(self._words):
            raise self.error("end of the file", self._words[self._used], "nothing more")

    def error(self, what: str, got: object, expected: object = None) -> PotentialError:
        """The error of a value that does not fit."""
        return PotentialError(f"unusable {what}", where=self.name, got=got, expected=expected)


def _read_descriptor(
    tokens: _Tokens,
) -> tuple[SymmetryFunctions, Float[np.ndarray, " width"] | None, Float[np.ndarray, " width"] | None]:
    kind = tokens.take("type of cutoff", str)
    if kind != "cos":
        raise tokens.error("type of cutoff", kind, "cos")
    n_species = tokens.take("number of species", whole)
    if n_species != 1:
        raise PotentialError(
            f"{tokens.name} has {n_species} species: the driver does not tell neighbours' elements apart, "
            "surefield does; only files of one element can be read"
        )
    first, second = (tokens.take("species", str) for _ in range(2))
    if first != second:
        raise tokens.error("pair of species", f"{first} {second}", "one element twice")
    radius = tokens.take("cutoff", number)
    lists: dict[str, list[dict[str, float]]] = {}
    for _ in range(tokens.take("number of function types", whole)):
        name = tokens.take("function type", str).lower()
        if name not in _COLUMNS or name in lists or (name == "g2" and lists):
            raise tokens.error("function type", name, "g2, then g4, each once")
        columns = _COLUMNS[name]
        rows, n_columns = (tokens.take(f"size of {name}", whole) for _ in range(2))
        if n_columns != len(columns) or rows < 0:
            raise tokens.error(f"size of {name}", f"{rows} {n_columns}", f"{len(columns)} columns")
        table = tokens.many(f"table of {name}", rows * n_columns).reshape(rows, n_columns)
        lists[name] = [dict(zip(columns, row, strict=True)) for row in table.tolist()]
    check_range(radius, tokens.name)
    functions = behler_functions([first], lists, {f"{first}-{first}": radius})
    if tokens.take("center_and_normalize", str) != "center_and_normalize":
        raise tokens.error("keyword", "another word", "center_and_normalize")
    if not tokens.take("center_and_normalize", lambda word: {"true": True, "false": False}[word.lower()]):
        tokens.end()
        return functions, None, None
    size = tokens.take("size of the descriptor", whole)
    if size != functions.width:
        raise tokens.error("size of the descriptor", size, functions.width)
    means, deviations = tokens.many("means", size), tokens.many("standard deviations", size)
    if (deviations <= 0).any():
        raise tokens.error("standard deviations", deviations.min(), "numbers above 0")
    tokens.end()
    return functions, means, deviations


_Weights = tuple[Float[np.ndarray, "n_in n_out"], Float[np.ndarray, " n_out"]]


def _read_layers(tokens: _Tokens, width: int) -> tuple[list[_Weights], float]:
    """Weights and biases of each layer, and the rate of dropout."""
    n_layers = tokens.take("number of layers", whole)
    if n_layers < 1:
        raise tokens.error("number of layers", n_layers, "at least the output layer")
    sizes = [tokens.take("layer size", whole) for _ in range(n_layers)]
    if sizes[-1] != 1 or min(sizes) < 1:
        raise tokens.error("layer sizes", sizes, "positive numbers, the last 1")
    activation = tokens.take("activation", str).lower()
    if activation != "tanh":
        raise tokens.error("activation", activation, "tanh")
    keep = tokens.many("keep probabilities", n_layers)
    rates = {_rate(value) for value in keep[1:].tolist()}
    if keep[0] != 1 or len(rates) > 1 or not all(0 <= rate < 1 for rate in rates):
        expected = "1 for the first layer, and one probability in (0, 1] for the others"
        raise tokens.error("keep probabilities", keep.tolist(), expected)
    layers = []
    for place, (n_in, n_out) in enumerate(zip([width, *sizes[:-1]], sizes, strict=True), start=1):
        weights = tokens.many(f"weights of layer {place}", n_in * n_out).reshape(n_in, n_out)
        layers.append((weights, tokens.many(f"biases of layer {place}", n_out)))
    tokens.end()
    return layers, next(iter(rates), 0.0)


def _rate(keep: float) -> float:
    """The rate of dropout whose complement is the probability bit by bit; a short decimal if there is one."""
    short = round(1.0 - keep, 12)
    return short if 1.0 - short == keep else 1.0 - keep


def _read_masks(
    tokens: _Tokens, widths: Sequence[int], rate: float
) -> list[Bool[np.ndarray, "n_members n_out"]]:
    """Masks of the hidden layers; those of the inputs must be ones."""
    n_members = tokens.take("ensemble size", whole)
    if n_members < 0 or (n_members > 0 and rate == 0):
        expected = "0 for a network whose keep probabilities are 1"
        raise tokens.error("ensemble size", n_members, expected)
    table = tokens.many("masks", n_members * sum(widths)).reshape(n_members, sum(widths))
    tokens.end()
    if not np.isin(table, (0, 1)).all():
        raise tokens.error("masks", "other numbers", "0 and 1")
    inputs, *masks = np.split(table.astype(bool), np.cumsum(widths)[:-1], axis=1)
    if not inputs.all():
        raise tokens.error("masks of layer 0", "zeros", "ones: the inputs are not dropped")
    return masks


def _check_writable(potential: DropoutNetwork) -> None:
    descriptor = potential.descriptor
    if len(potential.species) > 1:
        raise PotentialError(
            f"KIM's {DRIVER} does not tell the elements of neighbours apart, so a network of "
            f"{', '.join(descriptor.symbols)} has no such files; save_potential keeps it"
        )
    if not isinstance(descriptor, SymmetryFunctions) or any(
        f.type not in ("G2", "G4") for f in descriptor.functions[0]
    ):
        raise PotentialError(f"KIM's {DRIVER} has G2 and G4 functions only, this network has others")
    types = [f.type for f in descriptor.functions[0]]
    if types != sorted(types):
        raise PotentialError("the functions of the network must be G2 first, then G4, to be written")


def _numbers(values: np.ndarray | Sequence[float]) -> str:
    return " ".join(f"{float(value):.17g}" for value in values)


def _descriptor_text(potential: DropoutNetwork) -> str:
    descriptor = potential.descriptor
    assert isinstance(descriptor, SymmetryFunctions)
    (symbol,), (functions,) = descriptor.symbols, descriptor.functions
    lines = [
        "# Descriptor of a neural network, written by surefield",
        "cos  # cutoff type",
        "1  # number of species",
        f"{symbol} {symbol} {descriptor.cutoff:.17g}  # species, species, cutoff (angstrom)",
    ]
    blocks = {name: [f for f in functions if f.type == name.upper()] for name in _COLUMNS}
    blocks = {name: block for name, block in blocks.items() if block}
    lines.append(f"{len(blocks)}  # number of function types")
    for name, block in blocks.items():
        columns = _COLUMNS[name]
        lines += [f"{name} {len(block)} {len(columns)}", f"# {' '.join(columns)}"]
        lines += [_numbers(_row(function, descriptor.exponent_length)) for function in block]
    lines.append(f"center_and_normalize {potential.norm}")
    if potential.norm:
        lines += [f"{descriptor.width}  # size of the descriptor", "# means"]
        lines += [f"{value:.17g}" for value in np.asarray(potential.mean).tolist()]
        lines.append("# standard deviations")
        lines += [f"{value:.17g}" for value in np.asarray(potential.scale).tolist()]
    return "\n".join(lines) + "\n"


def _row(function: Function, length: float) -> tuple[float, ...]:
    eta = function.eta / length**2
    return (eta, function.offset) if function.type == "G2" else (function.zeta, function.gamma, eta)


def _layers_of(potential: DropoutNetwork) -> Iterator[_Weights]:
    for layer in potential.layers:
        yield np.asarray(layer.weights[0]), np.asarray(layer.bias[0])
    yield np.asarray(potential.readout).T, np.asarray(potential.bias) + np.asarray(potential.offsets)


def _network_text(potential: DropoutNetwork) -> str:
    sizes = [*potential.neurons, 1]
    keep = [1.0, *(potential.keep for _ in potential.neurons)]
    lines = [
        "# Neural network Y = act(X W + b), written by surefield",
        f"{len(sizes)}  # number of layers, output included",
        f"{' '.join(map(str, sizes))}  # size of each layer",
        "tanh  # activation",
        f"{_numbers(keep)}  # keep probability of the input of each layer",
    ]
    for place, (weights, bias) in enumerate(_layers_of(potential), start=1):
        lines.append(f"# weights of layer {place}, {weights.shape[0]} x {weights.shape[1]}")
        lines += [_numbers(row) for row in weights]
        lines += [f"# biases of layer {place}", _numbers(bias)]
    return "\n".join(lines) + "\n"


def _members_text(potential: DropoutNetwork) -> str:
    lines = [
        "# Masks of the inputs of each layer, written by surefield",
        f"{potential.n_members}  # ensemble size",
    ]
    masks = [np.asarray(mask, int) for mask in potential.masks]
    inputs = " ".join("1" for _ in range(potential.descriptor.width))
    for member in range(potential.n_members):
        lines += [f"# member {member + 1}", inputs]
        lines += [" ".join(map(str, mask[member].tolist())) for mask in masks]
    return "\n".join(lines) + "\n"
