"""What sources hold, against what was put into them by hand; archives also against those that `tar` writes."""

import io
import json
import os
import re
import shutil
import subprocess
import tarfile

import cv2
import numpy as np
import pytest

from reidlab.data.images import read_image
from reidlab.data.listing import Entry, Reader, entries_of
from reidlab.errors import InputError


def png(value, size=(6, 4)):
    return cv2.imencode(".png", np.full((*size, 3), value, np.uint8))[1].tobytes()


def pack(file, members):
    """A tar of (name, content), or of ready headers."""
    with tarfile.open(file, "w") as tar:
        for name, content in members:
            header = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return file


def header(name, **fields):
    made = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def listed(place, pattern=None):
    return [*entries_of(place, pattern and re.compile(pattern))[1]]


def names(place):
    """Paths of a source, those that are refused apart with the reason."""
    found = listed(place)
    return [entry.path for entry in found if not entry.refused], {e.path: e.refused for e in found if e.refused}


def test_an_unknown_camera_is_of_no_scene(tmp_path):
    (tmp_path / "s1").mkdir()
    for name in ("s1/ann_c-1.png", "s1/ann_c2.png"):
        (tmp_path / name).write_bytes(png(1))
    found = listed(tmp_path, r"(?P<scene>s\d)/(?P<pid>\w+)_c(?P<camid>-?\d+)")
    assert [(entry.pid, entry.camid) for entry in found] == [("s1/ann", None), ("s1/ann", "s1/2")]


def test_a_folder_of_images_and_archives(tmp_path):
    (tmp_path / "ann").mkdir()
    for name in ("ann/2_c1.png", "ann/1_c2.png", ".hidden.png", "z.PNG"):
        (tmp_path / name).write_bytes(png(1))
    (tmp_path / "notes.txt").write_text("no image")
    pack(tmp_path / "more.tar", [("bob/1_c3.png", png(2)), ("readme.md", b"")])
    found = listed(tmp_path, r"(?P<pid>\w+)/\d+_c(?P<camid>\d)")
    assert [(e.path, e.pid, e.camid) for e in found] == [
        *(("ann/1_c2.png", "ann", "2"), ("ann/2_c1.png", "ann", "1")),
        *(("more.tar/bob/1_c3.png", "bob", "3"), ("z.PNG", None, None)),
    ]


def test_one_image(tmp_path):
    (tmp_path / "a.png").write_bytes(png(7))
    root, (entry,) = entries_of(tmp_path / "a.png")
    assert entry.path == "a.png" and Reader(root)(entry)[0, 0].tolist() == [7, 7, 7]
    with pytest.raises(InputError, match="no such file or folder"):
        entries_of(tmp_path / "b.png")


def test_a_change_of_a_file_shows(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    before = listed(tmp_path)
    assert listed(tmp_path) == before
    os.utime(tmp_path / "a.png", (1, 1))
    assert listed(tmp_path) != before


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table(separator, tmp_path):
    rows = ["Path|time|PID|camid|x", "a.png|12.5|007|-1|?", 'b\\c.png||nan| "2"|?']
    (tmp_path / "t.csv").write_text("\ufeff" + "\n".join(rows).replace("|", separator) + "\n\n")
    assert [(e.path, e.time, e.pid, e.camid) for e in listed(tmp_path / "t.csv")] == [
        ("a.png", 12.5, "007", None),
        ("b/c.png", None, None, "2"),
    ]


def test_negative_numbers_are_nobody_and_floats_of_a_column_whole(tmp_path):
    rows = ["path,pid,camid", "a.png,1.0,2.0", "b.png, 1 ,2.1", "c.png,-1.0,1", "d.png,-1 ,-1.0", "e.png,,nan"]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    labels = [("1", "2.0"), ("1", "2.1"), (None, "1"), (None, None), (None, None)]
    assert [(entry.pid, entry.camid) for entry in listed(tmp_path / "t.csv")] == labels
    (tmp_path / "t.csv").write_text("path;pid\r\na.png;1\r\nb.png;1.0\r\nc.png;1.1\r\n")
    assert [entry.pid for entry in listed(tmp_path / "t.csv")] == ["1", "1.0", "1.1"]
    pack(
        tmp_path / "x.tar",
        [("a.png", png(1)), ("a.json", b'{"pid": -1, "camid": 3}'), ("b.png", png(2)), ("b.cls", b"-1")],
    )
    assert [(entry.pid, entry.camid) for entry in listed(tmp_path / "x.tar")] == [(None, "3"), (None, None)]


def test_junk_in_names_of_files_is_nobody_and_a_folder_is_what_it_is_called(tmp_path):
    for name in ("-1/a_c1.png", "7/-1_c1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(png(1))
    assert [entry.pid for entry in listed(tmp_path, r"(?P<pid>[^/]+)/")] == ["-1", "7"]
    assert [entry.pid for entry in listed(tmp_path, r"[^/]+/(?P<pid>[^_]+)_c(?P<camid>\d)")] == ["a", None]


def test_rows_that_cant_be_used_are_named_and_the_others_read(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "t.csv").write_text('path,time\na.png,1\n,2\na.png\na.png,soon\n"x\0y.png",3\nabsent.png,inf\n')
    found = listed(tmp_path / "t.csv")
    assert [entry.refused for entry in found] == [
        *(None, "row 3 has no path", "row 4 has 1 cells, the header 2"),
        *("its time 'soon' is no number of seconds since 1970", None),
        "its time 'inf' is no number of seconds since 1970",
    ]
    with pytest.raises(InputError, match="can't be read"):
        Reader(tmp_path)(found[4])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "column 'path' is missing; found nothing"),
        (b"file,pid\na,1\n", "found file, pid"),
        (b"path,pid,PID\na,1,2\n", "column 'pid' comes twice"),
        (b"path\n\xff.png\n", "not a CSV in UTF-8"),
        (b'path\n"' + b"x" * 200_000, "not a CSV in UTF-8"),
    ],
)
def test_no_table(text, message, tmp_path):
    (tmp_path / "t.csv").write_bytes(text)
    with pytest.raises(InputError, match=message):
        listed(tmp_path / "t.csv")


def test_labels_beside_the_images_of_an_archive(tmp_path):
    file = pack(
        tmp_path / "a.tar",
        [
            *(("1.cls", b"12\n"), ("1.png", png(1))),
            *(("d/2.png", png(2)), ("d/2.json", json.dumps({"pid": 3, "camid": "x", "time": 4}).encode())),
            *(("3.left.png", png(3)), ("3.json", b'{"pid": "p\xc3\xa9"}'), ("4.png", png(4))),
            *(("7.cls", b"8"), ("7.png", png(7)), ("7.json", b'{"camid": 2}')),
            *(("8.json", b'{"pid": "x"}'), ("8.cls", b"8"), ("8.png", png(8))),
            *(("9.json", b'{"pid": 7.0, "camid": 2}'), ("9.png", png(9)), ("10.json", b'{"pid": true}')),
            *(("11.json", '{"pid": "a\u202eb"}'.encode()), ("11.png", png(9)), ("12.cls", "\u202e".encode())),
            *(("12.png", png(12)), ("5.png", png(5)), ("5.json", b"{"), ("6.png", png(6)), ("6.json", b'{"pid": [1]}')),
        ],
    )
    found = {e.path.removeprefix("a.tar/"): (e.pid, e.camid, e.time, bool(e.refused)) for e in listed(file)}
    assert found == {
        **{"1.png": ("12", None, None, False), "d/2.png": ("3", "x", 4.0, False)},
        **{"3.left.png": ("pé", None, None, False), "4.png": (None, None, None, False)},
        **{"7.png": ("8", "2", None, False), "8.png": ("x", None, None, False)},
        **{"5.png": (None, None, None, False), "5.json": (None, None, None, True)},
        **{"6.png": (None, None, None, False), "6.json": (None, None, None, True)},
        **{"9.png": ("7", "2", None, False), "10.json": (None, None, None, True)},
        **{"11.png": (None, None, None, False), "11.json": (None, None, None, True)},
        **{"12.png": (None, None, None, True)},
    }


@pytest.mark.parametrize("kind", ["gnu", "pax", "ustar", "v7"])
def test_archives_of_tar_itself(kind, tmp_path):
    folder = tmp_path / "in"
    deep = folder / ("long" * 12)
    deep.mkdir(parents=True)
    for number in range(5):
        (deep / f"{number}.png").write_bytes(png(number, (5 + number, 40)))
    subprocess.run(["tar", f"--format={kind}", "-cf", tmp_path / "a.tar", "-C", folder, "."], check=True)
    root, found = entries_of(tmp_path / "a.tar")
    found = sorted(found)
    assert [entry.path for entry in found] == [f"a.tar/{deep.name}/{number}.png" for number in range(5)]
    for number, entry in enumerate(found):
        np.testing.assert_array_equal(Reader(root)(entry), read_image(deep / f"{number}.png"))


def test_what_an_archive_shouldnt_hold_is_named_and_the_rest_read(tmp_path):
    file = pack(
        tmp_path / "a.tar",
        [
            ("good.png", png(1)),
            ("../../etc/out.png", png(1)),
            ("/root.png", png(1)),
            (header("link.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b""),
            (header("hard.png", type=tarfile.LNKTYPE, linkname="good.png"), b""),
            (header("pipe.png", type=tarfile.FIFOTYPE), b""),
            ("good.png", png(2)),
            ("inner.tar", b"x"),
            ("inner.tar.gz", b"x"),
            ("._good.png", b"x"),
            (b"\xff.png".decode("utf-8", "surrogateescape"), png(1)),
            ("empty.png", b""),
            ("last.png", png(3)),
        ],
    )
    found = listed(file)
    assert [e.path for e in found if not e.refused] == ["a.tar/good.png", "a.tar/empty.png", "a.tar/last.png"]
    reasons = {e.path.removeprefix("a.tar/"): e.refused for e in found if e.refused}
    link, out, inner = "a link, device or sparse file in an archive", "its name leads out of the archive", "unpack it"
    assert reasons.pop("inner.tar").endswith(inner) and reasons.pop("inner.tar.gz").endswith(inner)
    assert reasons == {
        **{"../../etc/out.png": out, "/root.png": out},
        **{"link.png": link, "hard.png": link, "pipe.png": link},
        **{"good.png": "another of that name came before it", "?.png": "its name isn't UTF-8"},
    }
    reader = Reader(tmp_path)
    assert reader(found[0])[0, 0, 0] == 1 and reader(found[-1])[0, 0, 0] == 3
    with pytest.raises(InputError, match=r"a.tar/empty.png: not a readable image \(it is empty\)"):
        reader(next(e for e in found if e.path.endswith("empty.png")))


@pytest.mark.parametrize("kept", [512 * 7 + 100, 512 * 6 + 30, 512 * 6, 512 * 5, 300, 0])
def test_a_truncated_archive_is_named_and_what_is_whole_is_read(kept, tmp_path):
    """Three members of a header and a block of data each: 6 blocks, and then the end mark."""
    file = pack(tmp_path / "a.tar", [(f"{n}.png", png(n)) for n in range(3)])
    whole = file.read_bytes()
    file.write_bytes(whole[:kept] if kept < 512 * 7 else whole[: 512 * 6] + b"x" * 512)
    good, bad = names(file)
    assert good == [f"a.tar/{n}.png" for n in range(min(kept // 1024, 3))]
    assert "damaged or cut off" in bad["a.tar"]
    assert kept != 512 * 5 or bad["a.tar/2.png"] == "cut off by the end of the archive"


def test_headers_that_lie(tmp_path):
    bomb = header("b.png")
    with tarfile.open(tmp_path / "size.tar", "w") as tar:
        bomb.size = 1 << 40
        tar.fileobj.write(bomb.tobuf())
    assert names(tmp_path / "size.tar")[1]["size.tar/b.png"] == "cut off by the end of the archive"
    name = header("././@LongLink", type=tarfile.GNUTYPE_LONGNAME)
    name.size = 1 << 40
    (tmp_path / "name.tar").write_bytes(name.tobuf(tarfile.GNU_FORMAT) + b"x" * 5000)
    assert "a header of" in names(tmp_path / "name.tar")[1]["name.tar"]
    back = bytearray(header("c.png").tobuf(tarfile.GNU_FORMAT))
    back[124:136] = b"\xff" * 11 + b"\0"  # a negative size
    back[148:156] = b" " * 8
    back[148:156] = b"%06o\0 " % sum(back)
    (tmp_path / "back.tar").write_bytes(bytes(back) * 3)
    assert "damaged or cut off" in names(tmp_path / "back.tar")[1]["back.tar"]
    nested = header("././@LongLink", type=tarfile.GNUTYPE_LONGNAME).tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "deep.tar").write_bytes(nested * 20_000)
    assert "damaged or cut off" in names(tmp_path / "deep.tar")[1]["deep.tar"]


def test_archives_that_are_none(tmp_path):
    for name, content in {"a.tar": b"no archive" * 100, "b.tar.gz": b"\x1f\x8b", "c.tgz": b"", "d.tar": b""}.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "e.tar").mkdir()
    (tmp_path / "f.png").write_bytes(png(1))
    (tmp_path / "g.tar").symlink_to(tmp_path / "nowhere")
    good, bad = names(tmp_path)
    assert good == ["f.png"] and sorted(bad) == ["a.tar", "b.tar.gz", "c.tgz", "d.tar", "g.tar"]


def test_the_boxes_of_sequences(tmp_path):
    """Two cameras of one scene, one of them a video; places beyond the frame are cut, as `corners` does."""
    for camera, truth in ((1, "1,4,1,2,2,3\n2,4,-5,0,7,3\n2,6,0,0,4,6\n"), (2, "2,4,0,0,2,2\n9,4,0,0,2,2\n")):
        folder = tmp_path / f"hall-c{camera}"
        (folder / "gt").mkdir(parents=True)
        (folder / "gt" / "gt.txt").write_text(truth)
    (tmp_path / "hall-c1" / "img1").mkdir()
    draw = np.random.default_rng(0)
    frames = draw.integers(0, 256, (2, 6, 4, 3)).astype(np.uint8)
    for number, frame in enumerate(frames, 1):
        cv2.imwrite(str(tmp_path / "hall-c1" / "img1" / f"{number:06d}.png"), frame[..., ::-1])
    film(tmp_path / "hall-c2" / "film.avi", [np.full((32, 48, 3), 60 * n, np.uint8) for n in (1, 2, 3)])
    root, found = entries_of(tmp_path)
    found = [*found]
    assert [(e.path, e.frame, e.pid, e.camid) for e in found] == [
        ("hall-c1/img1/000001.png#xywh=1,2,2,3", 1, "hall/4", "hall-c1"),
        ("hall-c1/img1/000002.png#xywh=-5,0,7,3", 2, "hall/4", "hall-c1"),
        ("hall-c1/img1/000002.png#xywh=0,0,4,6", 2, "hall/6", "hall-c1"),
        ("hall-c2/film.avi#frame=2&xywh=0,0,2,2", 2, "hall/4", "hall-c2"),
        ("hall-c2/film.avi#frame=9&xywh=0,0,2,2", 9, "hall/4", "hall-c2"),
    ]
    reader = Reader(root)
    np.testing.assert_array_equal(reader(found[0]), frames[0, 2:5, 1:3])
    np.testing.assert_array_equal(reader(found[1]), frames[1, 0:3, 0:2])
    np.testing.assert_array_equal(reader(found[2]), frames[1])
    for outside in ([4, 0, 2, 2], [0, -3, 2, 3], [-2, 0, 2, 2]):
        with pytest.raises(InputError, match="outside of the frame, 4 x 6 pixels"):
            reader(found[0]._replace(box=outside))
    for _ in range(2):
        assert reader(found[3]).shape == (2, 2, 3) and abs(int(reader(found[3])[0, 0, 0]) - 120) < 10
        with pytest.raises(InputError, match="no frame 9"):
            reader(found[4])


def test_sequences_are_neither_taken_for_crops_nor_hide_what_lies_beside_them(tmp_path):
    sequence = tmp_path / "train" / "one"
    for name, content in (("img1/000001.png", png(1, (50, 40))), ("det/det.txt", b"1,-1,1,2,10,20,1")):
        (sequence / name).parent.mkdir(parents=True)
        (sequence / name).write_bytes(content)
    with pytest.raises(InputError, match=r"has the sequence train/one; give the folder .*train$"):
        listed(tmp_path)
    (tmp_path / "train" / "ann").mkdir()
    (tmp_path / "train" / "ann" / "a.png").write_bytes(png(2))
    pack(tmp_path / "train" / "more.tar", [("b.png", png(3))])
    boxes, refused = names(tmp_path / "train")
    assert boxes == ["one/img1/000001.png#xywh=1,2,10,20"]
    assert refused == dict.fromkeys(["ann/a.png", "more.tar"], "lies beside sequences; embed its folder by itself")
    assert names(sequence) == (["img1/000001.png#xywh=1,2,10,20"], {})


def film(file, frames):
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 10, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(frame)
    writer.release()


def test_frames_of_a_video_in_any_order(tmp_path):
    """A process that takes up any part of a video gets the frames that one gets that reads all of it."""
    film(tmp_path / "a.avi", [np.full((32, 48, 3), 25 * n, np.uint8) for n in range(1, 9)])
    reader = Reader(tmp_path)
    for frame in (3, 4, 8, 1, 1, 7, 2):
        value = reader(Entry("x", "a.avi", frame=frame, box=[0, 0, 8, 8]))[0, 0, 0]
        assert abs(int(value) - 25 * frame) < 8


def test_a_video_without_boxes_is_refused_with_the_layout(tmp_path):
    film(tmp_path / "door.avi", [np.full((32, 48, 3), 60, np.uint8)])
    with pytest.raises(InputError, match=r"door\.avi: a video without boxes; .* NAME/det/det\.txt"):
        listed(tmp_path / "door.avi")


def test_links_that_lead_in_circles(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(png(1))
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert [entry.path for entry in listed(tmp_path)] == ["a/1.png"]
    shutil.rmtree(tmp_path / "a")
    assert listed(tmp_path) == []
