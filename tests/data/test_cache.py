import os

import numpy as np
import pytest

from reidlab.data import images
from reidlab.data.cache import DecodedCache
from reidlab.data.images import read_image
from reidlab.errors import InputError

SIZE = (24, 12)


@pytest.fixture
def folder(tmp_path, write_image):
    for number in range(70):
        write_image(tmp_path / "crops" / f"{number:02}.png", size=(20, 10))
    return tmp_path / "crops"


def cached(folder, size=SIZE):
    return DecodedCache(folder.parent / "cache", folder, [file.name for file in sorted(folder.iterdir())], size)


def test_it_holds_what_decoding_gives(folder):
    cache = cached(folder)
    files = [folder / "66.png", folder / "03.png"]
    expected = np.stack([read_image(file, SIZE) for file in files])
    assert np.array_equal(cache.read(cache.rows(files)), expected)
    assert cache.rows([folder / "66.png", folder / "other.png"]) is None
    assert cache.place.stat().st_size == 70 * 24 * 12 * 3


def test_it_is_made_once(folder, monkeypatch):
    place = cached(folder).place
    monkeypatch.setattr(images, "decode", lambda *_: pytest.fail("decoded again"))
    assert cached(folder).place == place and [place] == list(place.parent.iterdir())


def test_changed_data_and_other_sizes_are_noticed(folder, write_image):
    places = [cached(folder).place, cached(folder, (32, 16)).place]
    file = folder / "05.png"
    write_image(file, size=(20, 10))
    cache = cached(folder)
    places.append(cache.place)
    assert np.array_equal(cache.read(cache.rows([file]))[0], read_image(file, SIZE))
    stat = file.stat()
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    places.append(cached(folder).place)
    file.rename(folder / "a.png")
    places.append(cached(folder).place)
    assert len(set(places)) == 5


def test_a_broken_image_leaves_nothing_behind(folder):
    (folder / "69.png").write_bytes((folder / "69.png").read_bytes()[:40])
    with pytest.raises(InputError, match=r"69\.png: not a readable image"):
        cached(folder)
    assert list((folder.parent / "cache").iterdir()) == []


def test_a_full_disk_is_told_in_one_line(folder, monkeypatch):
    def full(cache):
        raise OSError(28, "No space left on device")
        yield

    monkeypatch.setattr(DecodedCache, "_decoded", full)
    with pytest.raises(InputError, match=r"No space left on device.*choose another data\.cache, or null") as error:
        cached(folder)
    assert "\n" not in str(error.value) and list((folder.parent / "cache").iterdir()) == []


def test_a_missing_image_is_named(folder):
    with pytest.raises(InputError, match=r"gone\.png: can't be read"):
        DecodedCache(folder.parent / "cache", folder, ["gone.png"], SIZE)
