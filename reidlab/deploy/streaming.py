"""Grouping nodes into stages that stream rows, so that only a stage's last output is held whole."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from reidlab.deploy.network import Network, Node, Rows

TOLERANCE = 0.05
LARGEST_ROW = 0xFFFF  # bytes
MAX_STAGE_NODES = 24  # REID_MAX_NODES of the C executor: it bounds the stack


@dataclass(frozen=True)
class Stage:
    """A tree of nodes in executable order, of which the last computes the output.

    - `sources`: for each node and input, the position of the node in the stage that makes it; -1: held whole
    - `rings`: for each node but the last, how many rows of its output its consumer needs at a time
    """

    network: Network
    nodes: tuple[Node, ...]
    sources: tuple[tuple[int, ...], ...]
    rings: tuple[int, ...]

    @property
    def output(self) -> int:
        """The tensor that the stage computes."""
        return self.nodes[-1].output

    @cached_property
    def inputs(self) -> tuple[int, ...]:
        """Tensors that must be whole before the stage runs."""
        pairs = [
            pair
            for node, sources in zip(self.nodes, self.sources, strict=True)
            for pair in zip(node.inputs, sources, strict=True)
        ]
        return tuple(dict.fromkeys(self.network.base(tensor) for tensor, source in pairs if source < 0))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return sum(node.macs for node in self.nodes)

    @property
    def ring_bytes(self) -> list[int]:
        """Size of each node's ring."""
        return [
            rows * self.network.rows[node.output].row_bytes
            for node, rows in zip(self.nodes[:-1], self.rings, strict=True)
        ]

    def events(self) -> Iterator[tuple[str, int, int]]:
        """Accesses of the C executor in order: ("read" | "last", whole tensor, row) and ("write", output, row).

        "last" is a read by the node that computes the output.
        """
        end = len(self.nodes) - 1
        for position, row in self.calls():
            node, label = self.nodes[position], "last" if position == end else "read"
            for index, (tensor, source) in enumerate(zip(node.inputs, self.sources[position], strict=True)):
                if source < 0 and index == 0:
                    yield from ((label, tensor, needed) for needed in self._needed(node, row))
                elif source < 0:
                    yield label, tensor, row % self.network.rows[tensor].height
            if position == end:
                yield "write", node.output, row

    def calls(self) -> Iterator[tuple[int, int]]:
        """The kernel calls of the C executor in order, as (position of the node, row that it makes)."""
        made = [0] * len(self.nodes)

        def make(position: int) -> Iterator[tuple[int, int]]:
            row = made[position]
            made[position] += 1
            last = self._needed(self.nodes[position], row).stop - 1
            for source, needed in zip(self.sources[position], (last, row), strict=False):
                while source >= 0 and made[source] <= needed:
                    yield from make(source)
            yield position, row

        for _ in range(self.network.rows[self.output].height):
            yield from make(len(self.nodes) - 1)

    def _needed(self, node: Node, row: int) -> range:
        """The rows of its first input that a node needs for a row of its output."""
        height, first = self.network.rows[node.inputs[0]].height, row * node.stride - node.pad
        return range(max(first, 0), min(first + node.window, height)) if node.window else range(height)

    @cached_property
    def replaceable(self) -> frozenset[int]:
        """Inputs that the output may overwrite: no byte is read after it was overwritten."""
        size = self.network.rows[self.output].nbytes
        candidates = [t for t in self.inputs if t != self.network.image and self.network.rows[t].nbytes >= size]
        return frozenset(tensor for tensor in candidates if self._stays_ahead(tensor))

    def _stays_ahead(self, tensor: int) -> bool:
        """Whether all reads of an input stay ahead of the output's writes, both starting at one address."""
        out_step = self.network.rows[self.output].row_bytes
        unread = self.network.rows[tensor].nbytes  # first byte that is read after the event
        written = 0  # the row that the event is followed by the writing of
        for kind, which, row in reversed(list(self.events())):
            if kind == "write":
                written = row
                if (row + 1) * out_step > unread:
                    return False
            elif self.network.base(which) == tensor:
                step = self.network.rows[which].row_bytes
                trailing = self.nodes[-1].trailing and out_step <= step
                if kind == "last" and (written if trailing else written + 1) * out_step > row * step:
                    return False
                unread = min(unread, row * step)
        return True


def stages(network: Network, recompute: frozenset[int] = frozenset()) -> list[Stage]:
    """Group the network into stages; each consumer of a tensor in `recompute` computes it, and none holds it whole."""
    return _Grouping(network, recompute).stages()


def with_running_means(network: Network, recompute: frozenset[int]) -> Network:
    """The network with means of tensors in `recompute` taken row by row, so that these needn't be held for them."""
    nodes, rows, fresh = [], dict(network.rows), max(network.rows) + 1
    for node in network.nodes:
        height, channels = rows[node.inputs[0]].height, node.params.get("channels", 0)
        if node.kernel == "reid_average_all" and node.inputs[0] in recompute and 4 * channels <= LARGEST_ROW:
            params = {"pixels": node.params["pixels"] // height, "channels": channels}
            nodes.append(
                Node(
                    node.op, "reid_totals_row", "reid_totals", params, node.inputs, fresh, window=2, pad=1, running=True
                )
            )
            node = replace(node, kernel="reid_average_totals_row", inputs=(fresh,))
            rows[fresh] = Rows(height, 4 * channels)
            fresh += 1
        nodes.append(node)
    return replace(network, nodes=nodes, rows=rows)


def single_stages(network: Network) -> list[Stage]:
    """One stage for each node, so that every tensor is held whole: the baseline of streaming."""
    return [Stage(network, (node,), ((-1,) * len(node.inputs),), ()) for node in network.nodes]


class _Grouping:
    """A node joins its consumer's stage where that can't cost memory.

    That is: it is the consumer's only large input, or holding what it is made from takes no more than holding it.
    """

    def __init__(self, network: Network, recompute: frozenset[int]):
        self.rows, self.nodes, self.recompute = network.rows, network.nodes, recompute
        self.network = network
        self.producer = {node.output: node for node in network.nodes}
        self.users: dict[int, int] = {}
        for node in network.nodes:
            for tensor in map(network.base, node.inputs):
                self.users[tensor] = self.users.get(tensor, 0) + 1
        self.joined = self._join(frozenset())
        made_again = set(recompute)
        for node in reversed(network.nodes):
            if node.output in made_again:
                made_again |= {tensor for tensor in node.inputs if (tensor, node.output) in self.joined}
        if made_again:  # whatever these are made from is held for long: only what is small is worth it
            self.joined = self._join(frozenset(made_again))

    def _join(self, frugal: frozenset[int]) -> set[tuple[int, int]]:
        """The pairs (tensor, output of its consumer) that share a stage."""
        joined: set[tuple[int, int]] = set()
        leaves: dict[int, frozenset[int]] = {}  # tensor -> whole tensors that its subtree reads
        counts: dict[int, int] = {}  # tensor -> nodes in its subtree
        for node in self.nodes:
            held: set[int] = set()
            count = 1
            for index, tensor in enumerate(node.inputs):
                size = self.rows[tensor].nbytes
                others = sum(self.rows[other].nbytes for other in node.inputs if other != tensor)
                alone = others <= TOLERANCE * size and node.output not in frugal
                if self._may_join(node, index) and count + counts[tensor] <= MAX_STAGE_NODES:
                    below = sum(self.rows[leaf].nbytes for leaf in leaves[tensor])
                    if tensor in self.recompute or alone or below <= (1 + TOLERANCE) * size:
                        joined.add((tensor, node.output))
                        count += counts[tensor]
                held |= leaves[tensor] if (tensor, node.output) in joined else {tensor}
            leaves[node.output], counts[node.output] = frozenset(held), count
        return joined

    def _may_join(self, node: Node, index: int) -> bool:
        tensor = node.inputs[index]
        if tensor not in self.producer or not (node.window or self.producer[tensor].running):
            return False
        if self.users[tensor] > 1 and tensor not in self.recompute:
            return False
        return index == 0 or self.rows[tensor].height == self.rows[node.output].height

    def stages(self) -> list[Stage]:
        """One stage for each tensor that some consumer needs whole."""
        whole = {t for node in self.nodes for t in node.inputs if (t, node.output) not in self.joined}
        whole = {self.network.base(tensor) for tensor in whole} | {self.network.output}
        return [self._stage(node) for node in self.nodes if node.output in whole]

    def _stage(self, final: Node) -> Stage:
        nodes: list[Node] = []
        sources: list[tuple[int, ...]] = []
        rings: list[int] = []

        def visit(node: Node) -> int:
            found = []
            for index, tensor in enumerate(node.inputs):
                position = -1
                if (tensor, node.output) in self.joined:
                    position = visit(self.producer[tensor])
                    window = node.window or 1 if index == 0 else 1
                    rings[position] = min(window, self.rows[tensor].height)
                found.append(position)
            nodes.append(node)
            sources.append(tuple(found))
            rings.append(0)
            return len(nodes) - 1

        visit(final)
        return Stage(self.network, tuple(nodes), tuple(sources), tuple(rings[:-1]))
