import fcntl
import subprocess
import sys

import pytest

from reidlab import files
from reidlab.errors import InputError, StorageError


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


@pytest.mark.parametrize(("raised", "told"), [
    (OSError(28, "No space left on device", "a.bin"), r"a\.bin: No space left on device; free space"),
    (OSError(122, "Disk quota exceeded", "a.bin"), r"a\.bin: Disk quota exceeded; free space"),
    (OSError(30, "Read-only file system", "a.bin"), r"a\.bin: Read-only file system; free space"),
    (PermissionError(13, "Permission denied", "a.bin"), r"a\.bin: Permission denied; free space"),
    (RuntimeError("iostream: No space left on device (28)"), "No space left on device; free space"),
])  # fmt: skip
def test_a_full_disk_is_one_line_however_a_library_tells_it(raised, told):
    with pytest.raises(StorageError, match=told), files.storage_errors():
        raise raised
    with pytest.raises(StorageError, match=told), files.storage_errors():
        raise RuntimeError("wrapped") from raised


@pytest.mark.parametrize("raised", [FileNotFoundError(2, "No such file", "a"), ValueError("x"), InputError("x")])
def test_other_errors_are_not_the_disks(raised):
    with pytest.raises(type(raised)) as error, files.storage_errors():
        raise raised
    assert error.value is raised


def test_a_folder_that_is_not_moved_vanishes_and_one_that_a_kill_left_is_swept(tmp_path):
    (tmp_path / ".people.ab12cd34" / "query").mkdir(parents=True)
    (tmp_path / ".others.ab12cd34").mkdir()
    with files.temporary_folder(tmp_path, "people") as folder:
        (folder / "a.jpg").write_text("x")
        assert sorted(place.name for place in tmp_path.iterdir()) == sorted([".others.ab12cd34", folder.name])
        files.sweep(tmp_path, "people")  # as another process would
        assert (folder / "a.jpg").exists()
    assert [place.name for place in tmp_path.iterdir()] == [".others.ab12cd34"]


def test_a_sweep_of_another_process_between_a_file_and_its_lock_costs_nothing(tmp_path, monkeypatch):
    lock, sweeps = fcntl.flock, [True]

    def late(*given):
        if sweeps:
            sweeps.pop()
            files.sweep(tmp_path)
            assert [*tmp_path.iterdir()] == []
        lock(*given)

    monkeypatch.setattr(fcntl, "flock", late)
    assert files.write_atomic(tmp_path / "metrics.json", "{}").read_text() == "{}"
    sweeps.append(True)
    (tmp_path / "metrics.json").unlink()
    with files.temporary_folder(tmp_path, "people") as folder:
        (folder / "a.jpg").write_text("x")
    assert [*tmp_path.iterdir()] == [] and not sweeps


@pytest.mark.parametrize("name", files.RANKS)
def test_the_processes_of_a_distributed_training_lock_each_for_itself(name, tmp_path, monkeypatch):
    with files.alone(tmp_path):
        monkeypatch.setenv(name, "1")
        with files.alone(tmp_path), pytest.raises(InputError), files.alone(tmp_path):
            pass
