"""From a trained network to a device: reading a .tflite, its footprint, C99 with a memory plan, bundles by target."""

from reidlab.deploy.c_export import export_c
from reidlab.deploy.emulator import CORES, missing_tools, run_firmware
from reidlab.deploy.footprint import op_costs
from reidlab.deploy.memory import memory_lines, memory_rules
from reidlab.deploy.target import Deployable, Target
from reidlab.deploy.tflite_graph import parse_graph, read_graph

__all__ = [
    "CORES", "Deployable", "Target", "export_c", "memory_lines", "memory_rules", "missing_tools", "op_costs",
    "parse_graph", "read_graph", "run_firmware",
]  # fmt: skip
