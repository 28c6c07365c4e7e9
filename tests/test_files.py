import fcntl
import hashlib
import subprocess
import sys
import time

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
    (tmp_path / ".people.ab12cd34.reidlab" / "query").mkdir(parents=True)
    (tmp_path / ".others.ab12cd34.reidlab").mkdir()
    with files.temporary_folder(tmp_path, "people") as folder:
        (folder / "a.jpg").write_text("x")
        assert sorted(place.name for place in tmp_path.iterdir()) == sorted([".others.ab12cd34.reidlab", folder.name])
        files.sweep(tmp_path, "people")  # as another process would
        assert (folder / "a.jpg").exists()
    assert [place.name for place in tmp_path.iterdir()] == [".others.ab12cd34.reidlab"]


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


def test_a_file_is_hashed_once_while_it_stays_as_it_is(tmp_path, monkeypatch):
    def read_to_hash(found):
        reads = []
        with monkeypatch.context() as patch:
            patch.setattr(hashlib, "file_digest", lambda file, kind: reads.append(file.name) or digest(file, kind))
            assert files.file_hash(file) == hashlib.sha256(found).hexdigest()[:16]
        return len(reads)

    def later():
        return now() + 2_000_000_000

    file, digest = tmp_path / "best.ckpt", hashlib.file_digest
    file.write_bytes(b"one")
    assert read_to_hash(b"one") == read_to_hash(b"one") == 1  # so lately changed that another change may not show
    now = time.time_ns
    with monkeypatch.context() as patch:  # reading took two seconds, in which another change may not show either
        patch.setattr(hashlib, "file_digest", lambda *given: patch.setattr(time, "time_ns", later) or digest(*given))
        files.file_hash(file)
    assert read_to_hash(b"one") == 1
    monkeypatch.setattr(time, "time_ns", later)
    assert (read_to_hash(b"one"), read_to_hash(b"one")) == (1, 0)
    time.sleep(0.05)
    file.write_bytes(b"two")
    assert (read_to_hash(b"two"), read_to_hash(b"two")) == (1, 0)
    files.write_atomic(file, b"six")
    assert read_to_hash(b"six") == 1
    file.unlink()
    with pytest.raises(InputError, match=r"best\.ckpt"):
        files.file_hash(file)
