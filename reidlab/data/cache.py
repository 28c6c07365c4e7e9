"""Decoded images on disk, so that an epoch reads pixels instead of decoding files."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from reidlab.console import log
from reidlab.data.images import PIXEL_RULE, read_batch
from reidlab.data.samples import digest
from reidlab.errors import InputError, StorageError
from reidlab.files import replacing, sweep
from reidlab.progress import bar

CHUNK = 64  # images that a thread decodes at a time


class DecodedCache:
    """The images of a data set at one size, as uint8 RGB (N, H, W, 3) in one file that every process maps.

    The file's name changes with `size`, with PIXEL_RULE, and with the path, length and time of change of every image;
    it is written atomically. Raises InputError where an image is missing or broken, or the disk is full.

    Args:
        folder: of the file.
        root: of the images.
        paths: of the images below it.
        size: height and width that they are resized to.
    """

    def __init__(self, folder: str | Path, root: Path, paths: Sequence[str], size: tuple[int, int]) -> None:
        self.files = {str(root / path): row for row, path in enumerate(sorted(set(paths)))}
        self.shape = len(self.files), *size, 3
        key = digest("\n".join([f"pixels {PIXEL_RULE}", *map(_state, self.files)]).encode())[:16]
        self.place = Path(folder) / f"{root.name}-{size[0]}x{size[1]}-{key}.rgb"
        if not self.place.exists():
            self._make()

    def rows(self, files: Sequence[Path]) -> np.ndarray | None:
        """The rows of these images in the cache (n,); None if it lacks one."""
        found = [self.files.get(str(file), -1) for file in files]
        return None if -1 in found else np.array(found)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """A copy of some images (n, H, W, 3)."""
        return np.array(np.memmap(self.place, np.uint8, "r", shape=self.shape)[rows])

    def _make(self) -> None:
        log.info(f"decoding {len(self.files)} images once: {self.place}")
        sweep(self.place.parent, self.place.name)
        try:
            with replacing(self.place) as file:
                for images in self._decoded():
                    file.write(images.data)
        except StorageError as error:
            raise StorageError(f"{error}; choose another data.cache, or null for none") from error

    def _decoded(self) -> Iterator[np.ndarray]:
        """All images, decoded by a few threads a little ahead of who takes them."""
        files, size = [Path(file) for file in self.files], self.shape[1:3]
        with ThreadPoolExecutor() as pool:
            ahead = []
            for start in bar(range(0, len(files), CHUNK), desc="decoding images", unit="batch"):
                ahead.append(pool.submit(read_batch, files[start : start + CHUNK], size))
                if len(ahead) > 2 * pool._max_workers:
                    yield ahead.pop(0).result()
            yield from (images.result() for images in ahead)


def _state(file: str) -> str:
    """A file's name, length and time of its last change."""
    try:
        stat = Path(file).stat()
    except OSError as error:
        raise InputError(f"{file}: can't be read ({error.strerror}); check the path and its permissions") from error
    return f"{file}\t{stat.st_size}\t{stat.st_mtime_ns}"
