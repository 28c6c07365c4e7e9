"""Published results of others on the same data and networks: accuracy, and figures on their boards."""

import re
from collections.abc import Sequence

import pandas as pd

from reidlab.config import SHIPPED
from reidlab.deploy.estimate import PUBLISHED as STM32
from reidlab.deploy.estimate import age_of_tool

ACCURACY = SHIPPED / "data" / "published_results.csv"
NVIDIA = SHIPPED / "data" / "nvidia_published.csv"
NETWORK = re.compile(r"(osnet|fdmobilenet|mobilenetv2)_x(\d)_(\d+)")  # -> family and width in the table of STM32 boards
DATA = {"tf_flowers": "flowers"}


def accuracy(data: str, network: str) -> pd.DataFrame:
    """Published results on a data set, as fractions; the rows of the same network first, no empty columns."""
    rows = pd.read_csv(ACCURACY)
    rows = rows[rows["data"] == data].drop(columns="data")
    rows = rows.sort_values("network", key=lambda names: names != network, kind="stable", ignore_index=True)
    return rows.dropna(axis="columns", how="all")


def stm32(network: str, data: str, size: Sequence[int]) -> pd.DataFrame:
    """The int8 rows of a network: of this input and data if there are any, and by each board's newest tool.

    Columns are those of the table, in the order that it has; empty where nothing is published.
    """
    rows = pd.read_csv(STM32, dtype={"alpha": str, "tool_version": str})
    family, alpha = _family(network)
    rows = rows[(rows["family"] == family) & (rows["alpha"] == alpha) & (rows["format"] == "Int8")]
    same_data = rows["dataset"].str.lower().replace(DATA) == data
    same_size = rows["resolution"] == f"{size[0]}x{size[1]}x3"
    for same in (same_size, same_data):
        if same.reindex(rows.index).any():
            rows = rows[same.reindex(rows.index)]
    rows = rows.assign(tool=rows["tool"] + " " + rows["tool_version"].str.removesuffix(" (not printed)"))
    newest = rows.sort_values("tool", key=lambda tools: tools.map(age_of_tool), kind="stable")
    newest = newest.drop_duplicates(["board", "dataset", "resolution"], keep="last")
    return newest.drop(columns="tool_version").sort_index().reset_index(drop=True)


def nvidia(network: str) -> pd.DataFrame:
    """Latency and throughput of a network on NVIDIA's devices; empty where nothing is published."""
    rows = pd.read_csv(NVIDIA)
    return rows[rows["network"] == network].drop(columns="network").reset_index(drop=True)


def _family(network: str) -> tuple[str, str]:
    if found := NETWORK.fullmatch(network):
        family, whole, part = found.groups()
        return family, f"{float(f'{whole}.{part}'):.2f}"
    return network, "list"
