"""Folders and tables that are larger, or turn back on themselves, more than anybody means them to."""

import os
import time

import broken
import cv2
import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.slow
SECONDS, MEMORY = 120, 4 << 30


@pytest.fixture
def described(tmp_path, tally):
    """Run stage `data` on a folder, with limits of time and memory."""

    def run(name, kind, *more):
        started = time.monotonic()
        argv = ["data", f"data={name}", f"data.root={tmp_path / 'data'}", f"run.root={tmp_path / 'runs'}", "run.name=r"]
        ended = broken.command(*argv, *more, folder=tmp_path / "runs", memory=MEMORY)
        assert time.monotonic() - started < SECONDS
        assert ended.status == 0 or ended.one_line, ended.errors
        tally(kind, "one line" if ended.status else "right")
        return ended

    return run


def crop(file, shade=90):
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.full((32, 16, 3), shade, np.uint8))
    return file


def identities(folder, count=8):
    """Two images of each, from two cameras."""
    for pid in range(count):
        for camera in (1, 2):
            crop(folder / f"{pid:04d}" / f"c{camera}.png", 20 * pid + camera)


def test_links_that_lead_back_are_followed_once(tmp_path, described):
    identities(tmp_path / "data")
    for pid in range(8):
        for number in range(8):
            (tmp_path / "data" / f"{pid:04d}" / f"link{number}").symlink_to(tmp_path / "data")
    ended = described("folders", "links to folders above")
    assert ended.status == 0, ended.errors


def test_folders_that_all_link_to_each_other_are_named(tmp_path, described):
    """There would be 12! paths."""
    identities(tmp_path / "data", 12)
    for pid in range(12):
        for other in range(12):
            (tmp_path / "data" / f"{pid:04d}" / f"to{other}").symlink_to(f"../{other:04d}")
    assert "more than 100 ways" in described("folders", "folders linked in a ring").errors


def test_a_link_to_itself_is_named(tmp_path, described):
    identities(tmp_path / "data")
    (tmp_path / "data" / "itself").symlink_to(tmp_path / "data" / "itself")
    assert "itself: can't be read" in described("folders", "link to itself").errors


def test_fifty_thousand_files(tmp_path, described):
    identities(tmp_path / "data")
    for number in range(50_000):
        os.link(tmp_path / "data" / "0000" / "c1.png", tmp_path / "data" / f"{number % 8:04d}" / f"x{number}.png")
    described("folders", "50,000 images")


@pytest.mark.parametrize("kind", ["missing", "repeated"])
def test_a_table_of_three_hundred_thousand_rows(kind, tmp_path, described):
    identities(tmp_path / "data")
    rows = range(300_000)
    path = [f"{row % 8:04d}/c{row % 2 + 1}.png" if kind == "repeated" else f"none/{row}.png" for row in rows]
    pid = [row % 8 for row in rows]
    pd.DataFrame({"path": path, "pid": pid, "camid": 1}).to_csv(tmp_path / "data" / "samples.csv", index=False)
    assert described("csv", "300,000 rows").one_line
