"""The stages of a network with their order and memory, as the C export writes them."""

from dataclasses import dataclass
from functools import cached_property

from reidlab.deploy.lowering import lower
from reidlab.deploy.network import Network
from reidlab.deploy.planner import Plan, PlanStep, plan
from reidlab.deploy.streaming import Stage, stages, with_running_means
from reidlab.deploy.tflite_graph import Graph


@dataclass(frozen=True)
class Program:
    """Stages in order; `plan.work_offsets` holds each stage's rings, then its scratch space.

    - `recomputed`: tensors that are made again by each consumer, because holding them would set the peak
    """

    network: Network
    stages: list[Stage]
    plan: Plan
    recomputed: frozenset[int]

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one run, repeated work included."""
        return sum(stage.macs for stage in self.stages)


def compile_program(graph: Graph, extra_macs: float = 0.1) -> Program:
    """Lower a graph, stream it, and plan its memory; repeats up to `extra_macs` of the work where that lowers the peak.

    Raises InputError, naming the operator, for what the C export doesn't support.
    """
    network = lower(graph)
    best = place_stages(network, stages(network))
    limit = best.macs * (1 + extra_macs)
    while True:
        choices = [best.recomputed | {tensor} for tensor in _held_at_peak(best)]
        trials = [_recomputing(network, choice) for choice in choices]
        trials = [trial for trial in trials if trial.macs <= limit and trial.plan.arena_bytes < best.plan.arena_bytes]
        if not trials:
            return best
        best = min(trials, key=lambda trial: (trial.plan.arena_bytes, trial.macs))


def _recomputing(network: Network, tensors: frozenset[int]) -> Program:
    network = with_running_means(network, tensors)
    return place_stages(network, stages(network, tensors), tensors)


def place_stages(network: Network, parts: list[Stage], recomputed: frozenset[int] = frozenset()) -> Program:
    """Order stages and place their tensors, rings and scratch space."""
    steps = [
        PlanStep(
            f"stage {index}",
            stage.inputs,
            stage.output,
            (*stage.ring_bytes, max(node.scratch_bytes for node in stage.nodes)),
            stage.replaceable,
        )
        for index, stage in enumerate(parts)
    ]
    outside = (network.image, network.output)
    sizes = {t: network.rows[t].nbytes for stage in parts for t in (*stage.inputs, stage.output) if t not in outside}
    planned = plan(steps, sizes, held=())
    by_output = {stage.output: stage for stage in parts}
    return Program(network, [by_output[step.output] for step in planned.steps], planned, recomputed)


def _held_at_peak(program: Program) -> list[int]:
    """Tensors with several consumers that exist while the peak is reached."""
    peak = max(range(len(program.plan.live_bytes)), key=program.plan.live_bytes.__getitem__)
    users: dict[int, int] = {}
    for node in program.network.nodes:
        for tensor in map(program.network.base, node.inputs):
            users[tensor] = users.get(tensor, 0) + 1
    return [
        place.tensor
        for place in program.plan.placements
        if place.tensor is not None and place.first <= peak <= place.last and users[place.tensor] > 1
    ]
