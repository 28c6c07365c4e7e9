"""The one thread that owns a gallery and its network: requests that wait are embedded together."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reidlab.gallery import Gallery, Where
from reidlab.gallery.gallery import Embeds

BATCH = 32  # images of several requests that are embedded together


@dataclass(frozen=True)
class Job:
    """The task of a request: images to identify, or a change of the gallery.

    Args:
        pixels: decodes the request's images to the model's size.
        count: how many they are.
        question: how many identities to list for each image, and where to look; None for a change.
        change: from the gallery and the images' embeddings to how many images were changed.
    """

    pixels: Callable[[], Sequence[np.ndarray]] = tuple
    count: int = 0
    question: tuple[int, Where] | None = None
    change: Callable[[Gallery, np.ndarray], int] | None = None
    answer: Future = field(default_factory=Future)


class Desk:
    """Answers jobs one after the other, questions that wait together.

    A question sees the gallery before or after a change, never between: one thread does both.

    Args:
        gallery: an object that nothing else uses meanwhile.
        model: the gallery's.
        threshold: up to which an image shows an identity.
        observe: is told the number of images that were embedded together.
    """

    def __init__(
        self, gallery: Gallery, model: Embeds, threshold: float, observe: Callable[[int], Any] = lambda _: None
    ) -> None:
        self.gallery, self.model, self.threshold, self.observe = gallery, model, threshold, observe
        self._jobs: deque[Job] = deque()
        self._ready = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="gallery", daemon=True)
        self._thread.start()

    def ask(self, job: Job) -> Future:
        """Take a job; its answer is a list of `Identification`s, or the result of its change."""
        with self._ready:
            self._jobs.append(job)
            self._ready.notify()
        return job.answer

    def close(self) -> None:
        """Do what was taken, then end."""
        with self._ready:
            self._closed = True
            self._ready.notify()
        self._thread.join()

    def _work(self) -> None:
        while jobs := self._next():
            own = [(job, pixels) for job in jobs if (pixels := self._decode(job)) is not None]
            try:
                self._answer(own)
            except Exception as error:
                for job, _ in own:
                    if not job.answer.done():
                        job.answer.set_exception(error)

    def _next(self) -> list[Job]:
        """The next change, or the next questions up to a batch; empty at the end."""
        with self._ready:
            self._ready.wait_for(lambda: self._jobs or self._closed)
            jobs = [self._jobs.popleft()] if self._jobs else []
            count = sum(job.count for job in jobs)
            while self._jobs and jobs[0].question and self._jobs[0].question:
                count += self._jobs[0].count
                if count > BATCH:
                    break
                jobs.append(self._jobs.popleft())
            return jobs

    def _decode(self, job: Job) -> Sequence[np.ndarray] | None:
        """The pixels of a job's images; None where they can't be read, which is its answer, or nobody waits."""
        if not job.answer.set_running_or_notify_cancel():
            return None
        try:
            return job.pixels()
        except Exception as error:
            job.answer.set_exception(error)
            return None

    def _answer(self, jobs: Sequence[tuple[Job, Sequence[np.ndarray]]]) -> None:
        images = [image for _, pixels in jobs for image in pixels]
        embeddings = self.model(images) if images else np.empty((0, 0), np.float32)
        if images:
            self.observe(len(images))
        alike: dict[tuple[int, Where], list[tuple[Job, np.ndarray]]] = {}
        for job, pixels in jobs:
            own, embeddings = embeddings[: len(pixels)], embeddings[len(pixels) :]
            if job.change is not None:
                job.answer.set_result(job.change(self.gallery, own))
            elif job.question is not None:
                alike.setdefault(job.question, []).append((job, own))
        for question, asking in alike.items():
            together = np.concatenate([own for _, own in asking])
            found = self.gallery.identify_embeddings(together, *question, self.threshold)
            for job, own in asking:
                job.answer.set_result(found[: len(own)])
                found = found[len(own) :]
