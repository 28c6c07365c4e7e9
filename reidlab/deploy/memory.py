"""The RAM that a model's activations take under four sets of rules, from TFLite-Micro's to those of the C export."""

from collections.abc import Sequence
from dataclasses import dataclass

from reidlab.deploy.lowering import lower
from reidlab.deploy.planner import Plan, PlanStep, plan
from reidlab.deploy.program import Program, compile_program, place_stages
from reidlab.deploy.streaming import single_stages
from reidlab.deploy.tflite_graph import Graph


@dataclass(frozen=True)
class MemoryRule:
    """One set of rules, and the memory plan that follows from it."""

    rule: str
    plan: Plan
    macs: int

    @property
    def peak_bytes(self) -> int:
        """Size of the arena."""
        return self.plan.arena_bytes


def memory_rules(graph: Graph, program: Program | None = None) -> list[MemoryRule]:
    """Plan a graph by each rule. Image and float output count in the first only: the caller of the C owns them."""
    network = lower(graph)
    single = place_stages(network, single_stages(network))
    streamed = compile_program(graph, extra_macs=0)
    program = program or compile_program(graph)
    return [
        MemoryRule("operators as they are", plan_operators(graph), single.macs),
        MemoryRule("padding absorbed, results in place", single.plan, single.macs),
        MemoryRule("rows streamed through stages", streamed.plan, streamed.macs),
        MemoryRule("small maps made again", program.plan, program.macs),
    ]


def plan_operators(graph: Graph) -> Plan:
    """Plan a graph's own operators in the best order, every tensor whole and none in place."""
    steps = [
        PlanStep(
            f"{op.index} {op.kind}",
            tuple(t for t in op.inputs if t >= 0 and graph.tensors[t].data is None),
            op.outputs[0],
        )
        for op in graph.ops
    ]
    sizes = {t: graph.tensors[t].nbytes for step in steps for t in (*step.inputs, step.output)}
    return plan(steps, sizes, held=graph.inputs, kept=graph.outputs)


def lifetime_rows(plan: Plan) -> list[dict[str, int | str]]:
    """The rectangles of a plan's picture over time: x from `first` to `last` + 1, y from `offset` up by `bytes`."""
    return [
        {"label": place.label, "first": place.first, "last": place.last, "offset": place.offset, "bytes": place.size}
        for place in sorted(plan.placements, key=lambda place: (place.first, place.offset))
    ]


def memory_lines(rules: Sequence[MemoryRule]) -> list[str]:
    """The rules as lines of text: peak, bound and work."""
    return [
        f"{rule.peak_bytes / 1024:8.1f} KiB  (at least {rule.plan.lower_bound / 1024:.1f})  "
        f"{rule.macs / 1e6:.1f} M MAC  {rule.rule}"
        for rule in rules
    ]
