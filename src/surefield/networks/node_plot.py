"""Outputs of all nodes of a network over a set of structures: is any dead, saturated or out of its range?"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jaxtyping import Float

from surefield.descriptors.derivatives import atomic_features
from surefield.errors import ConfigError, DataError, PotentialError
from surefield.files import atomic_path, write_atomic
from surefield.networks.network_dicts import fprange_of, network_dicts
from surefield.potentials.atomic_network import AtomicNetwork
from surefield.potentials.evaluate import check_frames
from surefield.potentials.image_network import ImageNetwork
from surefield.potentials.layers import ACTIVATIONS, scale_inputs
from surefield.potentials.potential import as_potential
from surefield.structures.images import Images, hash_images

__all__ = ["NodePlot", "NodeSummary", "node_outputs"]

Network = AtomicNetwork | ImageNetwork
#: Outputs of one element's network: one array per layer, scaled inputs first.
Layers = list[Float[np.ndarray, "n_atoms n_nodes"]]

#: Name of the only network of an image-centred model.
IMAGE: Final = "image"
DEAD: Final = 1e-3
#: Outputs beyond are on the flat part of an activation; (lowest, highest) that are not.
UNSATURATED: Final = {"tanh": (-0.99, 0.99), "sigmoid": (0.01, 0.99), "linear": (-np.inf, np.inf)}
SATURATED_SHARE: Final = 0.2
#: The features that made the range may come out with another last digit.
ROUNDING: Final = 1e-9
#: Axis of nodes that are bounded.
BOUNDS: Final = (-1.2, 1.2)
#: Atoms whose outputs a violin is drawn from; the table counts all.
MAX_ATOMS: Final = 1000
#: Flag and colour, most telling first; nodes without a flag are blue.
FLAG_COLORS: Final = {"extrapolating": "#D55E00", "saturated": "#E69F00", "dead": "#7A828C"}
BLUE: Final = "#0072B2"
INK: Final = "#1F2933"


@dataclass(frozen=True)
class NodeSummary:
    """Statistics of one node's output.

    Attributes:
        element: symbol; "image" for an image-centred model.
        layer: 0: scaled inputs, then hidden layers, then the output node.
        node: place in its layer, from 0.
        mean: over all atoms of the element; of an image-centred model, over the images.
        std: standard deviation.
        min: smallest output.
        max: largest output.
        dead: std below 1e-3.
        saturated: more than 20 % of the outputs are above 0.99 in size; of 'sigmoid', below 0.01 or above
            0.99. Nodes without an activation are never saturated.
        extrapolating: an input (layer 0) that leaves [-1, 1].
    """

    element: str
    layer: int
    node: int
    mean: float
    std: float
    min: float
    max: float
    dead: bool
    saturated: bool
    extrapolating: bool

    @property
    def color(self) -> str:
        """Of the node in the figure."""
        return next((c for flag, c in FLAG_COLORS.items() if getattr(self, flag)), BLUE)


class NodePlot:
    """Picture and table of what the nodes of a network put out.

    Args:
        calc: `Amp` calculator, `NeuralNetwork`, or a potential; trained or not, it must be set up when `plot`
            is called.
    """

    def __init__(self, calc: Any) -> None:
        self.calc = calc

    @property
    def potential(self) -> Network:
        """The network of the present parameters.

        Raises:
            ConfigError: a model that has not been set up.
            PotentialError: a potential without element networks.
        """
        potential = as_potential(getattr(self.calc, "model", self.calc))
        if not isinstance(potential, Network):
            raise PotentialError(
                "there are no nodes to plot",
                got=type(potential).__name__,
                expected="a NeuralNetwork, or the potential of one",
            )
        return potential

    def plot(self, images: Images, filename: str | Path = "nodeplot.pdf") -> list[NodeSummary]:
        """Draw the distribution of every node's output, a page per element and an axis per layer.

        The table is written beside the figure too, with the suffix .csv.

        Args:
            images: list of `Atoms`, a file, or a dict of images.
            filename: .pdf (needs matplotlib) or .html (needs plotly); replaced if it exists.

        Returns:
            One entry per node, by element, layer and node; elements that no image has are left out.

        Raises:
            ConfigError: another suffix, or a model that has not been set up.
            DataError: no images.
            PotentialError: an element that the model does not know, or a potential without element networks.
            ImportError: matplotlib or plotly is not installed.
        """
        path = Path(filename)
        draw = _DRAWN.get(path.suffix.lower())
        if draw is None:
            raise ConfigError("unknown kind of figure", got=path.name, expected=".pdf or .html")
        potential, hashed = self.potential, hash_images(images)
        frames = [atoms for key, atoms in hashed.items() for _ in range(hashed.counts[key])]
        pages = [
            _Page(
                element,
                layers,
                [_summaries(potential, element, k, len(layers), x) for k, x in enumerate(layers)],
            )
            for element, layers in node_outputs(potential, frames).items()
        ]
        with atomic_path(path) as temporary:
            draw(temporary, pages, potential)
        table = [node for page in pages for nodes in page.nodes for node in nodes]
        write_atomic(path.with_suffix(".csv"), _csv(table))
        return table


@dataclass(frozen=True, eq=False)
class _Page:
    """What is drawn of one element: outputs and summaries of the nodes of each layer."""

    element: str
    layers: Layers
    nodes: list[list[NodeSummary]]

    @property
    def title(self) -> str:
        """Element, number of atoms and of nodes."""
        what = "images" if self.element == IMAGE else "atoms"
        return f"{self.element}: {len(self.layers[0])} {what}, {sum(map(len, self.nodes))} nodes"

    @property
    def flags(self) -> dict[str, int]:
        """Flag to the number of nodes that have it."""
        every = [node for layer in self.nodes for node in layer]
        return {flag: sum(getattr(node, flag) for node in every) for flag in FLAG_COLORS}

    def axis_title(self, layer: int) -> str:
        """Name of a layer."""
        if layer == 0:
            return "scaled inputs"
        return "output" if layer == len(self.layers) - 1 else f"hidden layer {layer}"

    @property
    def shown(self) -> np.ndarray:
        """Rows to draw: a fixed random sample of the atoms."""
        n = len(self.layers[0])
        return np.sort(np.random.default_rng(0).permutation(n)[:MAX_ATOMS])

    @property
    def widths(self) -> list[float]:
        """Room for each layer, in nodes."""
        return [max(4.0, layer.shape[1]) for layer in self.layers]


def node_outputs(potential: Network, frames: Sequence[Atoms]) -> dict[str, Layers]:
    """Outputs of all nodes for all atoms, float64, by element and layer.

    Args:
        potential: with element networks, or image-centred.
        frames: structures.

    Returns:
        Element (in the order of their symbols; "image" of an image-centred model) to one array
        (n_atoms, n_nodes) per layer: scaled inputs, hidden layers, output node. Atoms are in the order of
        the structures.

    Raises:
        DataError: no structures, or not those of an image-centred model.
        PotentialError: an element that the potential does not know.
    """
    if len(frames) == 0:
        raise DataError("there are no images to plot the nodes for")
    check_frames(potential, frames, "image")
    weights = network_dicts(potential)["weights"]
    ranges = fprange_of(potential)
    if isinstance(potential, ImageNetwork):
        positions = potential.unwrapped(jnp.asarray([atoms.positions for atoms in frames]))
        return {IMAGE: _forward(potential, np.asarray(positions).reshape(len(frames), -1), weights, ranges)}
    assert isinstance(ranges, dict)
    descriptor = potential.descriptor
    numbers = np.concatenate([atoms.numbers for atoms in frames])
    features = np.concatenate(atomic_features(descriptor, [potential.neighborhood(a) for a in frames]))
    counts = dict(zip(descriptor.symbols, descriptor.n_features, strict=True))
    species = dict(zip(descriptor.symbols, descriptor.species, strict=True))
    return {
        symbol: _forward(
            potential, features[numbers == species[symbol], : counts[symbol]], weights[symbol], ranges[symbol]
        )
        for symbol in sorted(counts)
        if species[symbol] in numbers
    }


def _forward(
    potential: Network, features: np.ndarray, weights: dict[int, np.ndarray], fprange: Any
) -> Layers:
    low, high = (jnp.asarray(edge) for edge in np.asarray(fprange).T)
    # Rounded like the ranges, or features at their ends would seem to lie outside.
    rounded = jnp.asarray(features.astype(potential.dtype), jnp.float64)
    outputs = [scale_inputs(rounded, low, high, keep_constant=potential.bounded)]
    for layer in range(1, len(weights) + 1):
        weight = jnp.asarray(weights[layer])
        act = ACTIVATIONS[_activation(potential, layer, len(weights))]
        outputs.append(act(outputs[-1] @ weight[:-1] + weight[-1]))
    return [np.asarray(values) for values in outputs]


def _activation(potential: Network, layer: int, last: int) -> str:
    """Activation of the nodes of a layer."""
    return "linear" if layer == 0 or (layer == last and not potential.bounded) else potential.activation


def _bounded(potential: Network, layer: int, last: int) -> bool:
    """Whether the outputs of a layer fit the common axis; scaled inputs do but for extrapolation."""
    return layer == 0 or _activation(potential, layer, last) != "linear"


def _summaries(
    potential: Network, element: str, layer: int, n_layers: int, outputs: np.ndarray
) -> list[NodeSummary]:
    low, high = UNSATURATED[_activation(potential, layer, n_layers - 1)]
    least, most, std = outputs.min(axis=0), outputs.max(axis=0), outputs.std(axis=0)
    saturated = np.mean((outputs < low) | (outputs > high), axis=0) > SATURATED_SHARE
    outside = (least < -1 - ROUNDING) | (most > 1 + ROUNDING)
    columns = (outputs.mean(axis=0), std, least, most, std < DEAD, saturated, outside & (layer == 0))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [NodeSummary(element, layer, node, *row) for node, row in enumerate(rows)]


def _csv(table: Sequence[NodeSummary]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(NodeSummary)])
    writer.writerows(astuple(node) for node in table)
    return text.getvalue()


def _draw_pdf(path: Path, pages: Sequence[_Page], potential: Network) -> None:
    """One page per element."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.backends.backend_pdf import PdfPages
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise ImportError("node plots as .pdf need matplotlib: pip install matplotlib") from error
    with PdfPages(path, metadata={"CreationDate": None}) as pdf:
        for page in pages:
            # Without pyplot, so that a backend that the user has chosen stays.
            figure = Figure(figsize=(min(3.0 + 0.22 * sum(page.widths), 30.0), 4.5), layout="constrained")
            FigureCanvasAgg(figure)
            figure.suptitle(page.title, color=INK, fontsize=12)
            axes = figure.subplots(1, len(page.layers), width_ratios=page.widths, squeeze=False)[0]
            for layer, axis in enumerate(axes):
                _violins(axis, page, layer, _bounded(potential, layer, len(page.layers) - 1))
            marks = [Patch(color=FLAG_COLORS[flag], label=f"{n} {flag}") for flag, n in page.flags.items()]
            figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False)
            pdf.savefig(figure)


def _violins(axis: Any, page: _Page, layer: int, bounded: bool) -> None:
    values, nodes = page.layers[layer][page.shown], page.nodes[layer]
    # A density of numbers that differ by rounding only cannot be computed.
    spread = np.ptp(values, axis=0) > ROUNDING
    values = np.where(spread, values, values[:1])
    drawn = axis.violinplot(list(values.T), range(len(nodes)), widths=0.85, showextrema=False)
    for body, node in zip(drawn["bodies"], nodes, strict=True):
        body.set(facecolor=node.color, edgecolor=node.color, alpha=0.75)
    places = np.arange(len(nodes))
    axis.hlines([node.mean for node in nodes], places - 0.25, places + 0.25, colors=INK, linewidth=1.2)
    axis.vlines(
        range(len(nodes)),
        [node.min for node in nodes],
        [node.max for node in nodes],
        colors=INK,
        linewidth=0.5,
    )
    axis.set_title(page.axis_title(layer), fontsize=10, color=INK)
    axis.set_xlabel("node")
    axis.set_xlim(-0.7, len(nodes) - 0.3)
    axis.set_xticks(range(0, len(nodes), 1 + len(nodes) // 20))
    axis.grid(axis="y", color="#E4E7EB")
    axis.set_axisbelow(True)
    if bounded:
        axis.set_ylim(*BOUNDS)
    if layer == 0:
        axis.set_ylabel("output")


def _draw_html(path: Path, pages: Sequence[_Page], potential: Network) -> None:
    """One figure per element, below each other, in a page that needs no other file."""
    try:
        from plotly.graph_objects import Violin
        from plotly.offline import get_plotlyjs
        from plotly.subplots import make_subplots
    except ImportError as error:
        raise ImportError("node plots as .html need plotly: pip install 'surefield[report]'") from error
    parts = []
    for page in pages:
        n_layers = len(page.layers)
        titles = [page.axis_title(layer) for layer in range(n_layers)]
        widths = [width / sum(page.widths) for width in page.widths]
        figure = make_subplots(1, n_layers, column_widths=widths, subplot_titles=titles)
        for layer, (values, nodes) in enumerate(zip(page.layers, page.nodes, strict=True)):
            for node in nodes:
                violin = Violin(
                    y=values[page.shown, node.node],
                    x0=node.node,
                    width=0.85,
                    name=_hover(node),
                    scalegroup=f"{layer} {node.node}",
                    line={"color": node.color, "width": 1},
                    meanline={"visible": True},
                    points=False,
                    spanmode="hard",
                    showlegend=False,
                )
                figure.add_trace(violin, row=1, col=layer + 1)
            bounded = _bounded(potential, layer, n_layers - 1)
            figure.update_yaxes(range=BOUNDS if bounded else None, row=1, col=layer + 1)
            figure.update_xaxes(title_text="node", row=1, col=layer + 1)
        marks = [
            f'<span style="color:{FLAG_COLORS[flag]}">{n} {flag}</span>' for flag, n in page.flags.items()
        ]
        figure.update_layout(
            title_text=", ".join([page.title, *marks]),
            height=480,
            font={"color": INK},
            plot_bgcolor="white",
            violinmode="overlay",
        )
        figure.update_yaxes(gridcolor="#E4E7EB", zeroline=False)
        parts.append(str(figure.to_html(full_html=False, include_plotlyjs=False)))
    head = f'<meta charset="utf-8"><title>Node outputs</title><script>{get_plotlyjs()}</script>'
    path.write_text(f"<!doctype html><html><head>{head}</head><body>{''.join(parts)}</body></html>", "utf-8")


def _hover(node: NodeSummary) -> str:
    flags = [flag for flag in FLAG_COLORS if getattr(node, flag)]
    return f"node {node.node}" + (f" ({', '.join(flags)})" if flags else "")


_DRAWN: Final[dict[str, Callable[[Path, Sequence[_Page], Network], None]]] = {
    ".pdf": _draw_pdf,
    ".html": _draw_html,
}
