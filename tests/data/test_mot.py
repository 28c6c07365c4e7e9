"""Sequences in MOTChallenge's layout, as published and as they come."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from reidlab.data import mot
from reidlab.data.listing import entries_of
from reidlab.errors import InputError


def lay_out(folder, truth=None, detections=None, images=3, ini="", inside="img1"):
    (folder / inside).mkdir(parents=True)
    for number in range(1, images + 1):
        cv2.imwrite(str(folder / inside / f"{number:06d}.jpg"), np.full((40, 30, 3), number, np.uint8))
    for name, text in (("gt", truth), ("det", detections)):
        if text is not None:
            (folder / name).mkdir()
            (folder / name / f"{name}.txt").write_text(text)
    if ini:
        (folder / "seqinfo.ini").write_text(ini)
    return folder


def test_as_mot17_is_published(tmp_path):
    """Rows that don't count and other classes than pedestrians are left out; detections have six decimals."""
    truth = "1,1,10,11,5,9,1,1,0.9\n2,1,11,11,5,9,1,1,0.2\n1,2,1,1,5,9,0,1,1\n1,3,1,1,5,9,1,7,1\n"
    found = mot.read_sequence(
        lay_out(tmp_path / "MOT17-02", truth, "1,-1,10.5,11,5.25,9,0.987654\n", ini="[Sequence]\nimDir=img1\n")
    )
    assert found.name == "MOT17-02" and found.truth[["frame", "pid"]].values.tolist() == [[1, 1], [2, 1]]
    assert found.ignored[["pid", "distractor"]].values.tolist() == [[2, False], [3, True]]
    assert found.boxes.iloc[0].tolist() == [1, -1, 10.5, 11, 5.25, 9, 0.987654, -1, 1]
    numbers, images = zip(*found.frames(), strict=True)
    assert numbers == (1, 2, 3) and images[2].shape == (40, 30, 3)


@pytest.mark.parametrize(("name", "distracting"), [("MOT17-02", [2, 7, 8, 12]), ("mine", [2, 7, 8, 12]),
                                                   ("MOT20-01", [2, 6, 7, 8, 12])])  # fmt: skip
def test_classes_that_are_neither_wanted_nor_wrong(tmp_path, name, distracting):
    truth = "".join(f"1,{kind},1,1,5,9,1,{kind},1\n" for kind in range(1, 14))
    found = mot.read_sequence(lay_out(tmp_path / name, truth))
    assert found.truth["class"].tolist() == [1]
    assert found.ignored.loc[found.ignored["distractor"], "class"].tolist() == distracting


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("1,-1,1.5,2,3,4,0.9\n", [1, -1, 1.5, 2, 3, 4, 0.9, -1, 1]),  # MOT17, MOT20
        ("1,-1,1.5,2,3,4,0.9,-1,-1,-1\n", [1, -1, 1.5, 2, 3, 4, 0.9, -1, 1]),  # MOT15, MOT16
        ("1,5,1.5,2,3,4,1,-2.31,7.05,0.0\n", [1, 5, 1.5, 2, 3, 4, 1, -1, 1]),  # MOT15 with places in the world
        ("1,5,1.5,2,3,4\n", [1, 5, 1.5, 2, 3, 4, 1, -1, 1]),
        ("1,5,1.5,2,3,4,1,1\n", [1, 5, 1.5, 2, 3, 4, 1, 1, 1]),
        ("1,5,1.5,2,3,4,1,1,-1\n", [1, 5, 1.5, 2, 3, 4, 1, 1, 1]),
        (" 1.0, 5 , 1.5,2 ,3,4, 1e0\r\n\r\n", [1, 5, 1.5, 2, 3, 4, 1, -1, 1]),
        ("\ufeff1,5,1.5,2,3,4,1,\n", [1, 5, 1.5, 2, 3, 4, 1, -1, 1]),  # a mark, and a comma at the end
    ],
)
def test_lines_of_any_benchmark(tmp_path, text, row):
    (tmp_path / "det.txt").write_text(text)
    assert mot.read_boxes(tmp_path / "det.txt").to_numpy().tolist() == [row]


def test_boxes_without_a_size_are_left_out_and_counted(tmp_path, capsys):
    (tmp_path / "det.txt").write_text("1,1,1,1,5,5\n\n1,2,1,1,0,5\n2,1,1,1,5,-3\n2,2,1,1,5,5\n")
    assert mot.read_boxes(tmp_path / "det.txt")["pid"].tolist() == [1, 2]
    assert "2 boxes without a size are left out, the first in line 3" in capsys.readouterr().out


def test_images_that_are_numbered_from_0_are_refused(tmp_path):
    """Their boxes, from 1, would each be cut from the next image."""
    folder = lay_out(tmp_path / "s", "1,1,1,1,5,9,1,1,1\n")
    (folder / "img1" / "000003.jpg").rename(folder / "img1" / "000000.jpg")
    with pytest.raises(InputError, match=r"s/img1: its images are numbered from 0, and frames are numbered from 1"):
        mot.read_sequence(folder)


def test_a_confidence_of_minus_one_is_not_told_where_all_are(tmp_path):
    (tmp_path / "det.txt").write_text("1,-1,1,1,5,5,-1,-1,-1,-1\n2,-1,1,1,5,5,-1,-1,-1,-1\n")
    assert mot.read_boxes(tmp_path / "det.txt")["confidence"].tolist() == [1, 1]
    (tmp_path / "det.txt").write_text("1,-1,1,1,5,5,-1\n2,-1,1,1,5,5,0.5\n")  # a detector's score, as DPM's are
    assert mot.read_boxes(tmp_path / "det.txt")["confidence"].tolist() == [-1, 0.5]


@pytest.mark.parametrize("text", ["", "\n", " \n\n"])
def test_a_file_without_boxes(tmp_path, text):
    found = mot.read_sequence(lay_out(tmp_path / "s", detections=text))
    assert found.boxes.empty and found.truth.empty and found.ignored.empty


def test_a_truth_of_other_classes_is_named(tmp_path, capsys):
    mot.read_sequence(lay_out(tmp_path / "cars", "1,1,1,1,5,5,1,3,1\n2,1,1,1,5,5,1,3,1\n1,2,1,1,5,5,0,0,1\n"))
    said = capsys.readouterr().out
    assert "gt.txt: none of its 3 boxes counts: their class (column 8) is 0, 3, their flag (column 7) 0, 1; a" in said
    mot.read_sequence(lay_out(tmp_path / "people", "1,1,1,1,5,5,1,1,1\n1,2,1,1,5,5,1,3,1\n"))
    assert "counts" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["1,0,1,1,5,5,1,4,0,1", "2,0,1,1,5,5,1,11,1,2"], True),
        (["1,0,1,1,5,5,1,-1,-1,-1"], False),
        (["1,0,1,1,5,5,1,2.5,1,0"], False),
        (["1,0,1,1,5,5,1,4,0,1", "2,0,1,1,5,5,1,12,0,1"], False),
        (["1,0,1,1,5,5,1,0,0,0"], False),
    ],
)
def test_visdrones_ten_columns_are_named(lines, said, tmp_path, capsys):
    (tmp_path / "gt.txt").write_text("\n".join(lines) + "\n")
    assert len(mot.read_boxes(tmp_path / "gt.txt")) == len(lines)
    assert ("VisDrone's class, truncation and occlusion" in capsys.readouterr().out) == said


def test_a_detectors_own_numbers_are_nobodys(tmp_path):
    found = mot.read_sequence(lay_out(tmp_path / "s", "1,4,1,1,5,5\n", "1,7,1,1,5,5\n2,8,1,1,5,5\n"))
    assert found.boxes["pid"].tolist() == [-1, -1] and found.truth["pid"].tolist() == [4]


def test_names_without_zeros_and_another_image_folder(tmp_path):
    folder = lay_out(tmp_path / "mine", "10,1,1,1,5,5\n", images=2, ini="[Sequence]\nimDir=frames\n", inside="frames")
    (folder / "frames" / "000001.jpg").rename(folder / "frames" / "10.jpg")
    found = mot.read_sequence(folder)
    assert [number for number, _ in found.frames()] == [2, 10]
    assert found.boxes.equals(found.truth) and found.truth["visibility"].tolist() == [1]


def test_the_folder_that_one_stands_in_has_its_name(tmp_path, monkeypatch):
    place = lay_out(tmp_path / "hall-c1", "1,1,1,1,5,5\n")
    for inside, given in ((place, "."), (place / "img1", "..")):
        monkeypatch.chdir(inside)
        (sequence,) = mot.read_sequences(Path(given))
        assert (sequence.name, sequence.scene) == ("hall-c1", "hall")


def test_several_sequences_by_name(tmp_path):
    for name in ("b", "a"):
        lay_out(tmp_path / name, "1,1,1,1,5,5\n")
    (tmp_path / "notes").mkdir()
    assert [sequence.name for sequence in mot.read_sequences(tmp_path)] == ["a", "b"]


def test_a_written_table_is_read_again(tmp_path):
    table = pd.DataFrame([dict(frame=2, pid=3, left=1.25, top=2, width=3, height=4, confidence=0.5)])
    mot.write_boxes(tmp_path / "result.txt", table)
    assert (tmp_path / "result.txt").read_text() == "2,3,1.25,2,3,4,0.50,-1.00,-1.00\n"
    pd.testing.assert_frame_equal(mot.read_boxes(tmp_path / "result.txt")[[*table]], table, check_dtype=False)


def test_a_video_file(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 24))
    for value in (50, 100, 150):
        writer.write(np.full((24, 32, 3), value, np.uint8))
    writer.release()
    (tmp_path / "det").mkdir()
    (tmp_path / "det" / "det.txt").write_text("1,-1,1,1,5,5\n")
    sequence = mot.read_sequence(tmp_path)
    frames = list(sequence.frames())
    assert sequence.boxes["frame"].tolist() == [1] and sequence.truth.empty
    assert [number for number, _ in frames] == [1, 2, 3]
    assert [round(float(image.mean())) for _, image in frames] == pytest.approx([50, 100, 150], abs=3)
    assert sequence.rate == 10


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,1,1,1,5,5\nx,1,1,1,5,5\n", "line 2"),
        ("0,1,1,1,5,5\n", "line 1"),
        ("1.5,1,1,1,5,5\n", "line 1"),
        ("1,1,nan,1,5,5\n", "line 1"),
        ("1,1,inf,1,5,5\n", "line 1"),
        ("1 1 1 1 5 5\n", "1 columns"),
        ("1,1,1,1,5\n", "5 columns"),
        ("1,1,1,1,5,5\n1,1,1,1,5,5,1,1,1,1,1,1,1\n", "not readable"),
        ("9,1,1,1,5,5\n", r"gt\.txt: 1 of the 1 frames with boxes have no image in .*img1, the first is 9; add the"),
        ("1,1,0.4,0.5,0.02,0.1\n2,1,0.9,0.8,0.1,0.2\n", r"gt\.txt: its 2 boxes all end within 2 pixels .* in pixels"),
        ("1,1,1,1,5,5\n\n\n1,2,1,1,x,5\n", "line 4"),
        ("1,1,1,1,5,5,1\n1,2,1,1,5\n", "line 2"),
        ("1e300,1,1,1,5,5\n", "line 1"),
        ("frame,id,left,top,width,height\n1,1,1,1,5,5\n", "line 1"),
        ("1,1,1,1,5,5,1,1,1,1,1\n", "11 columns"),
        ("1,,1,1,5,5,0.9\n2,,1,1,5,5,0.9\n", "line 1"),  # no column takes the place of an empty one
        ("1,1,1,1,5,5,,1,0.4\n", "line 1"),
        ("2,7,1,1,5,5\n2,7,9,9,5,5\n", "frame 2 has identity 7 twice"),
    ],
)
def test_files_that_are_something_else_are_named(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        mot.read_sequence(lay_out(tmp_path / "s", text))


@pytest.mark.parametrize(
    ("file", "ini"), [("SeqInfo.INI", "[SEQUENCE]\nIMDIR = frames/\nFRAMERATE = 29.97\n"),
                      ("seqinfo.ini", "\ufeff[sequence]\r\nimdir=frames\r\nframerate=29.97\r\nseqLength=\r\n")]
)  # fmt: skip
def test_an_ini_in_any_case(tmp_path, file, ini):
    folder = lay_out(tmp_path / "s", "1,1,1,1,5,5\n", inside="frames")
    (folder / file).write_text(ini)
    found = mot.read_sequence(folder)
    assert found.rate == 29.97 and found.source == folder / "frames"


@pytest.mark.parametrize("name", ["", "../elsewhere", "/etc", "a/b", ".."])
def test_images_come_from_a_folder_beside_the_ini_alone(tmp_path, name):
    with pytest.raises(InputError, match="imDir"):
        mot.read_sequence(lay_out(tmp_path / "s", "1,1,1,1,5,5\n", ini=f"[Sequence]\nimDir={name}\n"))


@pytest.mark.parametrize(
    ("ini", "said"),
    [("[Sequence]\nimDir\n", "not readable as INI"), ("frames=3\n", "not readable as INI")],
)
def test_an_ini_that_says_something_else(tmp_path, ini, said):
    with pytest.raises(InputError, match=said):
        mot.read_sequence(lay_out(tmp_path / "s", "1,1,1,1,5,5\n", ini=ini))


@pytest.mark.parametrize("rate", ["fast", "0", "nan", "-25", "1e9", "inf", ""])
def test_a_rate_that_is_none_stops_nothing(rate, tmp_path, capsys):
    ini = f"[Sequence]\nframeRate={rate}\n"
    assert mot.read_sequence(lay_out(tmp_path / "s", "1,1,1,1,5,5\n", ini=ini)).rate is None
    assert f"frameRate={rate} is no number of frames a second" in (said := capsys.readouterr().out)
    assert "drawn by 30" in said


def test_a_rate_is_the_sequences_own(tmp_path):
    ini = "[Sequence]\nframeRate=14\n"
    assert mot.read_sequence(lay_out(tmp_path / "s", "1,1,1,1,5,5\n", ini=ini)).rate == 14
    assert mot.read_sequence(lay_out(tmp_path / "t", "1,1,1,1,5,5\n")).rate is None


@pytest.mark.parametrize("place", ["gt/gt.txt", "seqinfo.ini", "video.mp4"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, place):
    folder = lay_out(tmp_path / "s", "1,1,1,1,5,5\n", ini="[Sequence]\n")
    shutil.rmtree(folder / "img1") if place.endswith("mp4") else (folder / place).unlink()
    os.mkfifo(folder / place)
    with pytest.raises(InputError, match="pipe"):
        list(mot.read_sequence(folder).frames())


def test_folders_that_are_no_sequences(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        mot.read_sequences(tmp_path / "nothing")
    with pytest.raises(InputError, match="no images"):
        mot.read_sequences(tmp_path)
    with pytest.raises(InputError, match="no boxes"):
        mot.read_sequences(lay_out(tmp_path / "s"))
    (tmp_path / "s" / "det").mkdir()
    (tmp_path / "s" / "det" / "det.txt").write_text("1,-1,1,1,5,5\n")
    shutil.rmtree(tmp_path / "s" / "img1")
    (tmp_path / "s" / "broken.avi").write_bytes(b"no video")
    with pytest.raises(InputError, match="not readable as a video"):
        list(mot.read_sequence(tmp_path / "s").frames())
    (tmp_path / "s" / "other.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match="2 videos"):
        mot.read_sequence(tmp_path / "s")


def test_detections_of_a_sample_s_missing_frames(tmp_path):
    """A sample of a sequence often has the boxes of all its frames."""
    detections = "".join(f"{frame},-1,10,10,5,9,1\n" for frame in range(1, 8) for _ in range(2))
    with pytest.raises(InputError, match=r"det\.txt: 4 of the 7 frames with boxes .*img1, the first is 4; .* remove"):
        mot.read_sequence(lay_out(tmp_path / "s", "1,1,10,10,5,9\n", detections))


def test_one_box_in_pixels_is_enough(tmp_path):
    """Small boxes at the frame's corner, and those beyond it, are pixels where one says so."""
    file = tmp_path / "det.txt"
    file.write_text("1,-1,0,0,1,1\n1,-1,20,3,4,9\n")
    assert len(mot.read_boxes(file)) == 2
    file.write_text("1,-1,-20,-30,5,9\n")
    assert len(mot.read_boxes(file)) == 1


def test_shares_of_the_frame_are_no_entries_either(tmp_path):
    lay_out(tmp_path / "yolo", detections="1,-1,0.42,0.5,0.03,0.11,0.9\n")
    with pytest.raises(InputError, match=r"det\.txt: its 1 boxes .* in pixels: multiply"):
        list(entries_of(tmp_path)[1])
