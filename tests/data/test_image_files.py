"""Which files are images, and their pixels: against PIL, and against pixels turned by hand."""

import io
import os
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from reidlab import cli
from reidlab.data import ClassFolders, FolderLayout, IdentityFolders
from reidlab.data.cache import DecodedCache
from reidlab.data.folders import IMAGE_EXTENSIONS, walk
from reidlab.data.images import MAX_PIXELS, decode, read_batch, read_image, read_size, stored_size
from reidlab.errors import InputError
from reidlab.files import file_hash, read_bytes
from reidlab.stages.predict import images_of

PIXELS = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (41, 23, 3), np.uint8), (0, 0), 2)
UPRIGHT = {  # EXIF 2.3, tag 274: what the stored pixels must be turned by
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'


def encoded(fmt, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, fmt, **options)
    return buffer.getvalue()


def turned(fmt, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    return encoded(fmt, exif=exif)


def by_pil(raw):
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(raw))).convert("RGB"))


def test_a_jpeg_of_thousands_of_scans_is_refused_before_any_is_decoded(tmp_path):
    whole = encoded("JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    assert decode(whole[:-2] + 50 * whole[last:-2] + whole[-2:], "x").shape == PIXELS.shape
    for number, end in enumerate((whole[-2:], b"")):  # without an end it is PIL's
        (tmp_path / f"{number}.jpg").write_bytes(whole[:-2] + 200 * whole[last:-2] + end)
        for read in (read_image, lambda file: read_batch([file], (8, 4), reduced=True)):
            with pytest.raises(InputError, match=rf"{number}\.jpg: not a readable image \(more scans"):
                read(tmp_path / f"{number}.jpg")


def test_a_format_that_starts_a_program_or_wraps_another_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *args, **kwargs: pytest.fail("ran a program"))
    monkeypatch.setattr("PIL.EpsImagePlugin.has_ghostscript", lambda: True)
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n"
    wrapped = io.BytesIO()
    Image.new("P", (8, 8)).save(wrapped, "BLP")
    for number, (raw, name) in enumerate([(script, "EPS"), (wrapped.getvalue(), "BLP")]):
        (tmp_path / f"{number}.jpg").write_bytes(raw)
        for read in (read_image, read_size):
            with pytest.raises(InputError, match=rf"{number}\.jpg: not a readable image \(its format is {name}\)"):
                read(tmp_path / f"{number}.jpg")


def test_the_stored_size_is_found_without_decoding(monkeypatch):
    exif = Image.Exif()
    exif[0x112] = 6
    raw = encoded("PNG", exif=exif)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("decoded"))
    assert stored_size(raw, "x") == PIXELS.shape[:2] and stored_size(encoded("WEBP"), "x") == PIXELS.shape[:2]


def test_what_looks_like_scans_in_metadata_or_behind_the_end_is_none():
    exif = Image.Exif()
    exif[0x010E] = "\xff\xda" * 300
    plain, marks = encoded("JPEG", progressive=True), b"\xff\xda\x00\x02" * 300
    for raw in (encoded("JPEG", exif=exif), encoded("JPEG", comment=marks, progressive=True), plain + marks):
        assert decode(raw, "x").shape == PIXELS.shape


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_is_undone_once(fmt, orientation, tmp_path):
    raw = turned(fmt, orientation)
    upright = UPRIGHT[orientation](decode(encoded(fmt), "x"))
    assert np.array_equal(decode(raw, "x"), upright) and np.array_equal(by_pil(raw), upright)
    file = tmp_path / "a.jpg"
    file.write_bytes(raw)
    assert read_size(file) == upright.shape[:2]
    assert np.array_equal(read_batch([file, file], upright.shape[:2])[1], upright)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_reduced_images_are_turned_too(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x112] = orientation
    stored = cv2.resize(PIXELS, (120, 260))
    Image.fromarray(stored).save(tmp_path / "a.jpg", exif=exif, quality=95)
    size = (32, 15) if orientation < 5 else (15, 32)
    reduced, full = (read_batch([tmp_path / "a.jpg"], size, reduced=fast)[0].astype(int) for fast in (True, False))
    assert 0 < np.abs(reduced - full).max() <= 16 and np.abs(reduced - full).mean() < 3


@pytest.mark.parametrize("fmt", ["JPEG", "PNG"])
def test_orientation_in_xmp_counts_as_for_pil(fmt):
    options = {"xmp": XMP.format(6).encode()}
    if fmt == "PNG":
        info = __import__("PIL.PngImagePlugin").PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.format(6))
        options = {"pnginfo": info}
    raw = encoded(fmt, **options)
    assert decode(raw, "x").shape == by_pil(raw).shape == (23, 41, 3) and np.array_equal(decode(raw, "x"), by_pil(raw))


def test_an_orientation_that_is_none_turns_nothing():
    for orientation in (0, 9, 255):
        assert np.array_equal(decode(turned("JPEG", orientation), "x"), decode(encoded("JPEG"), "x"))


def exif_of(kind, content):
    """An EXIF segment whose only tag is an orientation of a TIFF type (1 or 7 bytes, 2 text, 11 a float)."""
    count = 1 if kind == 11 else len(content)
    return b"Exif\0\0II*\0" + struct.pack("<LHHHL", 8, 1, 0x112, kind, count) + content.ljust(4, b"\0")[:4] + bytes(4)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    ("kind", "content"),
    [(1, b"\6"), (2, b"6\0"), (2, b"up\0"), (7, b"\6"), (7, b"abcd"), (11, struct.pack("<f", 2.5))],
)
def test_an_orientation_that_is_no_number_turns_nothing(kind, content, fmt, mode, tmp_path):
    raw = encoded(fmt, mode, exif=exif_of(kind, content))
    assert exif_of(kind, content)[6:] in raw
    assert np.array_equal(decode(raw, "x"), decode(encoded(fmt, mode), "x"))
    (tmp_path / "a.jpg").write_bytes(raw)
    assert read_size(tmp_path / "a.jpg") == PIXELS.shape[:2]


def test_other_damage_in_the_metadata_of_a_turned_photograph_is_none_of_its_pixels():
    """PIL fails to write back what it read; a number that is text there."""
    tags = struct.pack("<LHHHLL", 8, 2, 0x112, 3, 1, 6) + struct.pack("<HHL4s", 0x11A, 2, 2, b"x\0\0\0") + bytes(4)
    raw = encoded("JPEG", "CMYK", exif=b"Exif\0\0II*\0" + tags)
    assert np.array_equal(decode(raw, "x"), np.rot90(decode(encoded("JPEG", "CMYK"), "x"), -1))


@pytest.mark.parametrize(
    ("fmt", "mode", "options"),
    [
        ("JPEG", "CMYK", {}),  # PIL writes it inverted, with Adobe's marker
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "RGB", {"keep_rgb": True}),
        ("PNG", "P", {"transparency": 3}),
        ("PNG", "P", {"transparency": bytes(range(256))}),
        ("PNG", "L", {"transparency": 100}),
        ("PNG", "LA", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "RGB", {"save_all": True, "append_images": [Image.new("RGB", (23, 41))]}),
        ("GIF", "P", {"save_all": True, "append_images": [Image.new("RGB", (23, 41))]}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("WEBP", "RGB", {"save_all": True, "append_images": [Image.new("RGB", (23, 41))]}),
        ("TIFF", "CMYK", {}),
        ("TIFF", "1", {}),
        ("BMP", "P", {}),
    ],
)
def test_other_kinds_of_pixels_are_those_of_pil(fmt, mode, options):
    raw = encoded(fmt, mode, **options)
    assert np.array_equal(decode(raw, "x"), by_pil(raw))


def test_cmyk_without_adobes_marker_is_that_of_pil():
    raw = encoded("JPEG", "CMYK")
    at = raw.index(b"\xff\xee")
    plain = raw[:at] + raw[at + 2 + int.from_bytes(raw[at + 2 : at + 4]) :]
    assert np.array_equal(decode(plain, "x"), by_pil(plain))


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_keep_their_upper_eight(fmt, channels):
    deep = np.random.default_rng(0).integers(0, 65536, (11, 7, channels), np.uint16)
    raw = cv2.imencode(f".{fmt.lower()}", deep)[1].tobytes()
    expected = deep[..., :1].repeat(3, 2) if channels == 1 else deep[..., 2::-1]
    assert np.array_equal(decode(raw, "x"), expected >> 8)


def test_deep_gray_with_an_orientation_is_turned():
    deep = np.random.default_rng(0).integers(0, 65536, (11, 7), np.uint16)
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x112] = 6
    Image.fromarray(deep).save(buffer, "PNG", exif=exif)
    assert np.array_equal(decode(buffer.getvalue(), "x")[..., 0], np.rot90(deep >> 8, -1))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_of_32_bits_are_refused(kind, tmp_path):
    Image.fromarray(np.ones((9, 9), kind)).save(tmp_path / "a.tiff")
    with pytest.raises(InputError, match=r"a\.tiff: not a readable image \(32 bits a pixel; save it with 8\)"):
        read_image(tmp_path / "a.tiff")


def png_header(width, height):
    """A sound PNG whose pixels are missing."""

    def chunk(name, data=b""):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND")


def huge(fmt, width, height):
    if fmt == "PNG":
        return png_header(width, height)
    raw = encoded(fmt)
    old, new = (struct.pack(kind, *values) for kind, values in {
        "JPEG": ((">HH", (41, 23)), (">HH", (height, width))), "BMP": (("<ii", (23, 41)), ("<ii", (width, height))),
    }[fmt])  # fmt: skip
    assert raw.count(old) == 1
    return raw.replace(old, new)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "BMP"])
@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (30_000, 20_000), (16_000, 12_000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_refused_by_the_header(fmt, width, height, tmp_path):
    file = tmp_path / "big.jpg"
    file.write_bytes(huge(fmt, width, height))
    tracemalloc.start()
    message = rf"big\.jpg: .*(more than 89 million; shrink|{width * height} pixels)"  # the second by PIL
    with pytest.raises(InputError, match=message) as error:
        read_image(file)
    assert "\n" not in str(error.value)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_the_largest_image_is_pils():
    assert MAX_PIXELS == Image.MAX_IMAGE_PIXELS


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    for name, kind in (("pipe", "it is a pipe"), ("zero", "it is a device"), ("folder", "Is a directory")):
        for read in (read_image, read_size, read_bytes, file_hash):
            with pytest.raises(InputError, match=rf"{name}\.jpg: can't be read \({kind}\)"):
                read(tmp_path / f"{name}.jpg")
    for place in ("nul\0.jpg", "lone\ud800.jpg", "x" * 300, tmp_path / "none.jpg"):
        with pytest.raises(InputError, match="can't be read"):
            read_bytes(place)


def test_a_sparse_file_of_terabytes_is_refused(tmp_path):
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=r"a\.jpg: can't be read \(1,099,511,627,776 bytes, more than"):
        read_image(tmp_path / "a.jpg")


LEFT = (
    ".ipynb_checkpoints/0003_c1-checkpoint.jpg", "__MACOSX/0001/._0001_c1.jpg", "0001/._0001_c1.jpg", "0001/Thumbs.db",
    ".DS_Store", "0002/@eaDir/0002_c1.jpg", "0002/.thumbnails/x.jpg", "$RECYCLE.BIN/0009_c1.jpg", "0001/desktop.ini",
)  # fmt: skip


@pytest.fixture
def littered(tmp_path, write_image):
    """Four folders of three images each, of every type, among what systems leave behind."""
    kinds = iter(IMAGE_EXTENSIONS * 2)
    for pid in range(1, 5):
        for camera in range(1, 4):
            write_image(tmp_path / "data" / f"{pid:04}" / f"{pid:04}_c{camera}{next(kinds).upper()}", size=(20, 10))
    for path in LEFT:
        (tmp_path / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / path).write_bytes(b"no image")
    return tmp_path / "data"


def test_hidden_and_system_files_are_left_out_and_counted(littered):
    layout = {"train": "0001", "query": "0002", "gallery": ["0003", "0004"]}
    for source, count, skipped in (
        (ClassFolders(littered), 12, 9),
        (IdentityFolders(littered), 12, 9),
        (FolderLayout(littered, layout, r"(?P<pid>\d+)_c(?P<camid>\d+)"), 12, 5),
    ):
        samples = source()
        assert len(samples.table) == count
        assert samples.table["path"].str.fullmatch(r"000\d/000\d_c\d\.\w+").all()
        read_batch(samples.files(), (20, 10))
        notes = [note for note in samples.notes if "hidden or system" in note]
        assert sum(int(note.split(" hidden")[0].split()[-1]) for note in notes) == skipped
        assert not any("ignored" in note for note in samples.notes)
    assert len(images_of(littered).table) == 12


def test_a_hidden_folder_that_was_named_is_read(littered):
    littered.rename(littered.parent / ".data")
    assert len(walk(littered.parent / ".data")) == 12


def test_a_link_into_itself_ends(littered):
    (littered / "0001" / "loop").symlink_to(littered)
    (littered / "0005").symlink_to(littered / "0004")
    hidden = []
    assert len(walk(littered, hidden)) == 15 and "0001/loop" in hidden


def test_names_that_are_not_utf8_are_one_line(littered, capsys):
    name = os.fsdecode(b"caf\xe9_0001.jpg")
    (littered / "0001" / name).write_bytes(encoded("JPEG"))
    for read in (ClassFolders(littered), IdentityFolders(littered), lambda: images_of(littered),
                 lambda: images_of(littered / "0001" / name)):  # fmt: skip
        with pytest.raises(InputError, match=r"0001: the name b'caf\\xe9_0001\.jpg' isn't UTF-8; rename it"):
            read()
    assert np.array_equal(read_image(littered / "0001" / name), decode(encoded("JPEG"), "x"))
    assert cli.main(["data", "data=class_folders", f"data.root={littered}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_new_rule_of_pixels_makes_new_caches(tmp_path, write_image, monkeypatch):
    write_image(tmp_path / "a.png", size=(20, 10))
    places = []
    for rule in (1, 2):
        monkeypatch.setattr("reidlab.data.cache.PIXEL_RULE", rule)
        places.append(DecodedCache(tmp_path / "cache", tmp_path, ["a.png"], (20, 10)).place)
    assert places[0] != places[1]
