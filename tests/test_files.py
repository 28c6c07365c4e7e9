import subprocess
import sys

import pytest

from reidlab import files
from reidlab.errors import InputError


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch):
    file = files.write_atomic(tmp_path / "a" / "metrics.json", "old")

    def full(self, *args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(InputError, match=r"metrics\.json: can't be written \(No space left on device\)"):
        files.write_atomic(file, "new")
    assert file.read_text() == "old"
    assert list(file.parent.iterdir()) == [file]


def test_broken_json_is_named(tmp_path):
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(InputError, match=r"metrics\.json: not readable as JSON"):
        files.read_json(tmp_path / "metrics.json")


def test_two_processes_never_train_in_one_folder(tmp_path):
    other = [
        *(sys.executable, "-c"),
        f"import pathlib, reidlab.files as r\nwith r.alone(pathlib.Path({str(tmp_path)!r})): print('alone')",
    ]
    with files.alone(tmp_path / "elsewhere"), files.alone(tmp_path):
        refused = subprocess.run(other, capture_output=True, text=True, check=False)
    assert "another process trains there" in refused.stderr and not refused.stdout
    assert subprocess.run(other, capture_output=True, text=True, check=True).stdout == "alone\n"
