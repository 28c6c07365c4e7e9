"""Video sequences with boxes, in the layout of MOTChallenge (arXiv 1603.00831) or as a video file beside its boxes."""

import configparser
import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from reidlab.console import log
from reidlab.data.folders import IMAGE_EXTENSIONS
from reidlab.data.images import read_image
from reidlab.errors import InputError, one_line
from reidlab.files import open_regular, read_bytes, write_atomic
from reidlab.untrusted import printable

BOX = ["left", "top", "width", "height"]  # in pixels, of the frame's corner
COLUMNS = ["frame", "pid", *BOX, "confidence", "class", "visibility"]  # of a line; those after the box may be absent
OF_A_CAMERA = re.compile(r"(?P<scene>.+)-c\d+")  # names of sequences of one scene
VIDEO_EXTENSIONS = (".mp4", ".avi", ".mkv", ".mov", ".webm")
MAX_VIDEO_BYTES = 1 << 40
PERSON_CLASSES = (1, -1)  # a pedestrian, and a class that isn't told
DISTRACTORS = (2, 7, 8, 12)  # a person on a vehicle, a static person, a distractor, a reflection
MOT20_DISTRACTORS = (*DISTRACTORS, 6)  # and a vehicle without a motor
LARGEST = 2**31  # frame or identity
NAMED = 5  # values, in a message
FRACTION = 2  # pixels from the frame's corner: boxes that all end within are in shares of the frame, and no pixels
RATE, FASTEST = 30.0, 1000  # frames a second of a picture, where a sequence doesn't say; and at most


@dataclass(frozen=True)
class Sequence:
    """The frames of one camera, with what is known of the boxes in them.

    Args:
        name: of the sequence.
        source: a folder of numbered images, or a video file, whose frames are numbered from 1.
        rate: frames a second, as the sequence or its video says; None where neither does.
        truth: a row for each box of an identity that counts: `COLUMNS`; empty where it is unknown.
        boxes: a row for each box to follow, likewise: those of a detector, which are nobody's, or else the truth's.
        ignored: the truth's other rows, which nobody has to find; `distractor` says where a box that does isn't wrong
            either (arXiv 1603.00831, section 4).
    """

    name: str
    source: Path
    rate: float | None
    truth: pd.DataFrame
    boxes: pd.DataFrame
    ignored: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=[*COLUMNS, "distractor"]))

    @property
    def scene(self) -> str:
        """Sequences NAME-c1 and NAME-c2 are of one scene, whose identities are the same."""
        found = OF_A_CAMERA.fullmatch(self.name)
        return found["scene"] if found else self.name

    def frames(self) -> Iterator[tuple[int, np.ndarray]]:
        """Number and image (H, W, 3) uint8 RGB of each frame, in order."""
        if self.source.is_dir():
            for number, file in sorted(numbered(self.source).items()):
                yield number, read_image(file)
            return
        yield from read_video(self.source)

    def crops(self, rows: pd.DataFrame) -> list[np.ndarray]:
        """The images (H, W, 3) uint8 RGB in some boxes of this sequence, in their order."""
        wanted = {*rows["frame"]}
        images = {number: image for number, image in self.frames() if number in wanted}
        cut = []
        for frame, box in zip(rows["frame"], rows[BOX].to_numpy(float), strict=True):
            ((left, top, right, bottom),) = corners(box[None], images[frame])
            cut.append(images[frame][top:bottom, left:right])
        return cut


def refuse_bare_video(file: Path) -> None:
    """InputError for a video where boxes or images are wanted."""
    if file.suffix.lower() in VIDEO_EXTENSIONS and file.is_file():
        raise InputError(
            f"{file}: a video without boxes; put it into a folder NAME with its boxes in NAME/det/det.txt (frame, -1, "
            "left, top, width, height in pixels), and give NAME"
        )


def read_sequence(folder: Path) -> Sequence:
    """A folder of MOTChallenge: `img1/` or seqinfo.ini's `imDir`, `gt/gt.txt`, `det/det.txt`; or a video in its place.

    Raises InputError where there are no images, no boxes, or a file isn't what it should be.
    """
    named = (file for file in sorted(folder.iterdir()) if file.name.lower() == "seqinfo.ini")
    images, rate = _about(next(named, folder / "seqinfo.ini"))
    source = folder / images
    if not source.is_dir() or not numbered(source):
        videos = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in VIDEO_EXTENSIONS]
        if len(videos) != 1:
            raise InputError(
                f"{source}: no images, and {len(videos)} videos in {folder}; a sequence has numbered images there, "
                "such as 000001.jpg, or one video beside it"
            )
        source = videos[0]
        rate = rate or video_rate(source)
    elif 0 in numbered(source):
        raise InputError(
            f"{source}: its images are numbered from 0, and frames are numbered from 1; rename them, and number the "
            "frames of boxes that begin at 0 likewise"
        )
    if rate is None:
        log.info(
            f"{folder}: nothing says how many frames a second it has (frameRate of seqinfo.ini); drawn by {RATE:g}"
        )
    known, detected = folder / "gt" / "gt.txt", folder / "det" / "det.txt"
    if not known.is_file() and not detected.is_file():
        raise InputError(f"{folder}: no boxes; give {known} or {detected}")
    rows = read_boxes(known) if known.is_file() else pd.DataFrame(columns=COLUMNS, dtype=float)
    if (twice := rows.duplicated(["frame", "pid"])).any():
        frame, pid = rows.loc[twice, ["frame", "pid"]].iloc[0].tolist()
        raise InputError(f"{known}: frame {frame} has identity {pid} twice; give each box an identity of its own")
    counts = (rows["confidence"] != 0) & rows["class"].isin(PERSON_CLASSES)
    truth, ignored = rows[counts].reset_index(drop=True), rows[~counts].reset_index(drop=True)
    name = folder.name if folder.name.strip(".") else folder.resolve().name  # of `.` and `..`
    distractors = MOT20_DISTRACTORS if name.upper().startswith("MOT20") else DISTRACTORS
    if truth.empty and len(rows):
        there = [sorted({*rows[name]})[:NAMED] for name in ("class", "confidence")]
        kinds, flags = (", ".join(f"{value:g}" for value in values) for values in there)
        log.info(
            f"{known}: none of its {len(rows)} boxes counts: their class (column 8) is {kinds}, their flag (column 7) "
            f"{flags}; a person is of class 1, or -1 where it isn't told, with a flag that isn't 0"
        )
    boxes = read_boxes(detected).assign(pid=-1) if detected.is_file() else truth
    for file, table in ((detected, boxes), (known, truth)) if source.is_dir() else ():
        frames = {*table["frame"]}
        if file.is_file() and (absent := sorted(frames - {*numbered(source)})):
            raise InputError(
                f"{file}: {len(absent)} of the {len(frames)} frames with boxes have no image in {source}, the first is "
                f"{absent[0]:.0f}; add the images, or remove the lines of those frames"
            )
    return Sequence(name, source, rate, truth, boxes, ignored.assign(distractor=ignored["class"].isin(distractors)))


def read_sequences(folder: Path) -> list[Sequence]:
    """The sequence in a folder, or all that its subfolders hold, by name."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a sequence in MOTChallenge's layout, or a folder of them")
    inside = [place for place in sorted(folder.iterdir()) if (place / "gt").is_dir() or (place / "det").is_dir()]
    return [read_sequence(place) for place in inside or [folder]]


@contextmanager
def _opened(file: Path) -> Iterator[cv2.VideoCapture]:
    with open_regular(file, MAX_VIDEO_BYTES):  # OpenCV would wait for a pipe
        pass
    video = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG)
    try:
        yield video
    finally:
        video.release()


def read_video(file: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Number from 1 and image (H, W, 3) uint8 RGB of each frame; InputError where there is none."""
    number = 0
    with _opened(file) as video:
        there, image = video.read()
        while there:
            number += 1
            yield number, np.ascontiguousarray(image[..., ::-1])
            there, image = video.read()
    if not number:
        raise InputError(f"{file}: not readable as a video")


def video_rate(file: Path) -> float | None:
    """Frames a second, as a video says; None where it doesn't."""
    with _opened(file) as video:
        rate = video.get(cv2.CAP_PROP_FPS)
    return rate if 0 < rate <= FASTEST else None


def numbered(folder: Path) -> dict[int, Path]:
    """The images of a folder by the number that is their name."""
    files = (file for file in folder.iterdir() if file.suffix.lower() in IMAGE_EXTENSIONS)
    return {int(file.stem): file for file in files if file.stem.isascii() and file.stem.isdigit()}


def in_view(boxes: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Whether boxes (N, 4) show anything of an image, (N,) bool."""
    height, width = image.shape[:2]
    return ((boxes[:, :2] < (width, height)) & (boxes[:, :2] + boxes[:, 2:] > 0)).all(axis=1)


def corners(boxes: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Left, top, right, bottom (N, 4) of boxes in an image, in whole pixels; one outside is the pixel nearest to it."""
    height, width = image.shape[:2]
    low = np.clip(boxes[:, :2].round(), 0, (width - 1, height - 1))
    high = np.clip((boxes[:, :2] + boxes[:, 2:]).round(), low + 1, (width, height))
    return np.concatenate([low, high], 1).astype(int)


def read_boxes(file: Path) -> pd.DataFrame:
    """The lines of a gt.txt, det.txt or tracker's result: `COLUMNS`, where absent ones are 1, -1 and 1.

    Of ten columns the last three are places in the world, as in MOT15 and in results, and neither class nor visibility.
    Boxes without a size are left out, with a note. InputError, with the line, for what isn't a number.
    """
    try:
        text = pd.read_csv(
            io.BytesIO(read_bytes(file)), header=None, dtype=str, skip_blank_lines=False, keep_default_na=False
        )
    except pd.errors.EmptyDataError:
        text = pd.DataFrame()
    except InputError:
        raise
    except ValueError as error:  # pandas' own are ValueErrors, and so are texts that aren't UTF-8
        raise InputError(f"{file}: not readable as lines of numbers ({one_line(error)})") from error
    text = text.replace(r"^\s*$", np.nan, regex=True).dropna(how="all")
    text = text.loc[:, text.notna().any().iloc[::-1].cummax()]  # without the empty columns at the end
    if text.empty:
        return pd.DataFrame(columns=COLUMNS, dtype=float)
    if not 6 <= len(text.columns) <= 10:
        raise InputError(f"{file}: {len(text.columns)} columns; a line is frame, id, left, top, width, height, ...")
    if len(text.columns) == 10 and _is_visdrone(text):
        log.info(
            f"{file}: its last three columns seem to be VisDrone's class, truncation and occlusion; they aren't read, "
            "so that boxes of all classes count as people; write nine columns, with class 1 for those to follow"
        )
    told = text.iloc[:, : len(COLUMNS) if len(text.columns) < 10 else COLUMNS.index("class")]
    values = told.apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan)
    for name, standard in zip(COLUMNS[len(told.columns) :], (1.0, -1.0, 1.0)[len(told.columns) - 6 :], strict=True):
        values[name] = standard
    values.columns = pd.Index(COLUMNS)
    numbers = values[["frame", "pid"]]
    whole = (numbers.eq(numbers.round()) & (numbers.abs() < LARGEST)).all(axis=1) & (values["frame"] >= 1)
    wrong = ~(whole & values.notna().all(axis=1))
    if wrong.any():
        line = wrong.idxmax()
        raise InputError(
            f"{file}: line {line + 1} is '{','.join(text.loc[line].dropna())}'"
            f"{f', and others have {len(told.columns)} columns' if told.loc[line].isna().any() else ''}; "
            "a line is frame (from 1), id, left, top, width, height, ... in numbers"
        )
    empty = (values["width"] <= 0) | (values["height"] <= 0)
    if empty.any():
        log.info(f"{file}: {empty.sum()} boxes without a size are left out, the first in line {empty.idxmax() + 1}")
    values = values[~empty]
    ends = np.stack([values[start] + values[size] for start, size in zip(BOX[:2], BOX[2:], strict=True)])
    if len(values) and (np.abs(ends) <= FRACTION).all() and (values[BOX] % 1).any(axis=None):
        raise InputError(
            f"{file}: its {len(values)} boxes all end within {FRACTION} pixels of the frame's corner, as shares of the "
            "frame would; left and top (not the center), width and height are in pixels: multiply shares by its size"
        )
    if (values["confidence"] == -1).all():  # not told
        values["confidence"] = 1.0
    values["visibility"] = values["visibility"].where(values["visibility"] >= 0, 1.0)  # -1: not told
    return values.astype({"frame": int, "pid": int}).sort_values(["frame", "pid"], kind="stable").reset_index(drop=True)


def _is_visdrone(text: pd.DataFrame) -> bool:
    """Whether the last three of ten columns are whole numbers as VisDrone has them, and no places in the world."""
    kind, truncated, hidden = (text[column].str.strip() for column in text.columns[7:])
    return bool(
        kind.str.fullmatch(r"[0-9]|1[01]", na=False).all()
        and (kind != "0").any()
        and truncated.isin([*"012"]).all()
        and hidden.isin([*"012"]).all()
    )


def write_boxes(file: Path, table: pd.DataFrame) -> None:
    """Write boxes as MOTChallenge's tools read them; columns that the table lacks are 1, -1 and -1."""
    full = table.reindex(columns=COLUMNS).fillna({"confidence": 1, "class": -1, "visibility": -1})
    write_atomic(file, full.to_csv(header=False, index=False, float_format="%.2f"))


def _about(file: Path) -> tuple[str, float | None]:
    """`imDir` and `frameRate` of a seqinfo.ini, or `img1` and None; the first is a folder beside the file."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(read_bytes(file).decode("utf-8-sig")) if file.exists() else None
        section = next((name for name in parser.sections() if name.lower() == "sequence"), "Sequence")
    except (configparser.Error, ValueError) as error:
        raise InputError(f"{file}: not readable as INI ({one_line(error)})") from error
    name = parser.get(section, "imDir", fallback="img1").rstrip("/\\")
    if not name or Path(name).name != name or name == "..":
        raise InputError(f"{file}: imDir={name!r} is no name of a folder")
    told = parser.get(section, "frameRate", fallback=None)
    if told is None:
        return name, None
    try:
        rate = float(told)
    except ValueError:
        rate = math.nan
    if 0 < rate <= FASTEST:
        return name, rate
    log.info(f"{file}: frameRate={printable(told)} is no number of frames a second")
    return name, None
