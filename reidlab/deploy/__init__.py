"""From an int8 .tflite to a device: reading it, its footprint, its memory plan, C99, and proof on an emulated core."""

from reidlab.deploy.c_export import CReport, export_c
from reidlab.deploy.emulator import BOARDS, FirmwareRun, missing_tools, run_firmware
from reidlab.deploy.footprint import OpCost, op_costs
from reidlab.deploy.memory import MemoryRule, lifetime_rows, memory_lines, memory_rules
from reidlab.deploy.planner import Placement, Plan, Step, plan
from reidlab.deploy.program import Program, compile_program
from reidlab.deploy.tflite_graph import Graph, Op, Quantization, Tensor, parse_tflite, read_tflite

__all__ = [
    "BOARDS",
    "CReport",
    "FirmwareRun",
    "Graph",
    "MemoryRule",
    "Op",
    "OpCost",
    "Placement",
    "Plan",
    "Program",
    "Quantization",
    "Step",
    "Tensor",
    "compile_program",
    "export_c",
    "lifetime_rows",
    "memory_lines",
    "memory_rules",
    "missing_tools",
    "op_costs",
    "parse_tflite",
    "plan",
    "read_tflite",
    "run_firmware",
]
