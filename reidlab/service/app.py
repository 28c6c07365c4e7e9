"""The service's addresses: identify, enroll, forget, health, metrics, and the page to try it."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException as AnyHTTPException

from reidlab.errors import InputError, StorageError
from reidlab.gallery import Gallery, Identification, Where
from reidlab.gallery.gallery import Embeds
from reidlab.gallery.store import Unusable
from reidlab.service.desk import Desk, Job
from reidlab.service.guard import Guard
from reidlab.service.limits import Limits, Room
from reidlab.service.metrics import Metrics
from reidlab.service.uploads import Upload, received

PAGE = Path(__file__).with_name("page")
PARTS = {
    "": ("index.html", "text/html"),
    "page.js": ("page.js", "text/javascript"),
    "page.css": ("page.css", "text/css"),
}
MOST_LISTED = 1000  # identities an image
DAY_S = 86_400
CROPS = ("image", "frame", "boxes")


class Near(BaseModel):
    """An enrolled identity and its distance; `camid` and `time` of the image of it that is nearest, if one is."""

    pid: str
    distance: float
    camid: str | None
    time: float | None


class Answer(BaseModel):
    """Who an image shows: `pid`, or nobody that is enrolled."""

    verdict: Literal["known", "nobody"]
    pid: str | None
    distance: float | None
    nearest: list[Near]


class Answers(BaseModel):
    """An answer for each image, or box, in their order; an identity is accepted up to the threshold."""

    measure: str
    threshold: float
    answers: list[Answer]


class Enrolled(BaseModel):
    """How many images were enrolled."""

    enrolled: int


class Forgotten(BaseModel):
    """How many images were deleted."""

    forgotten: int


def create_app(
    gallery: Gallery,
    model: Embeds,
    threshold: float,
    k: int,
    limits: Limits,
    token: str | None = None,
    name: str = "",
    far: bool = False,
) -> FastAPI:
    """The service of a gallery.

    Args:
        gallery: the app's alone.
        model: the gallery's.
        threshold: up to which an image shows an identity.
        k: nearest identities to list, where a request doesn't say.
        limits: on requests.
        token: that requests must carry; None for none.
        name: that it was given to listen at.
        far: whether other machines reach it.
    """
    room, metrics = Room(limits), Metrics()
    desk = Desk(gallery, model, threshold, metrics.batch.observe)
    metrics.waiting.set_function(lambda: room.requests)
    size, place = model.size, gallery.place

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(desk.close)

    app = FastAPI(title="reidlab gallery", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(Guard, token=token, name=name, far=far, room=room, metrics=metrics)

    @app.exception_handler(AnyHTTPException)
    async def refuse(_: Request, error: AnyHTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(InputError)
    async def wrong_input(_: Request, error: InputError) -> Response:
        status = 507 if isinstance(error, StorageError) else 503 if isinstance(error, Unusable) else 422
        return JSONResponse({"error": str(error).replace(place, "the gallery")}, status)

    @app.post("/identify", response_model=Answers)
    async def identify(request: Request) -> Any:
        """Who images show: `image` files, or a `frame` and its `boxes`; at will `k`, `camera`s, `since`, `until`."""
        known = (*CROPS, "k", "camera", "since", "until")
        upload = await received(request, limits, known)
        listed = upload.number("k", min(k, MOST_LISTED), 1, MOST_LISTED)
        if listed % 1:
            raise HTTPException(422, "k: give a whole number")
        cameras = tuple(upload.text("camera")) or None
        where = Where(cameras, upload.number("since", -math.inf), upload.number("until", math.inf))
        found = await _answer(desk, _job(upload, size, question=(int(listed), where))) if upload.count else []
        return {
            "measure": gallery.distance,
            "threshold": threshold,
            "answers": [_as_answer(identification) for identification in found],
        }

    @app.post("/enroll", response_model=Enrolled)
    async def enroll(request: Request) -> Any:
        """Enroll images under a `pid`, one for all or one for each; at will `camid`, `time`, `keep_days` of all."""
        upload = await received(request, limits, (*CROPS, "pid", "camid", "time", "keep_days"))
        pids, camids = upload.text("pid"), upload.text("camid")
        if len(pids) not in (1, upload.count) or len(camids) > 1:
            raise HTTPException(422, "give one pid for all images, or one for each, and at most one camid")
        taken, days = upload.number("time", time.time()), upload.number("keep_days", math.inf, 0)
        count, camid = upload.count, camids[0] if camids else None
        if taken + days * DAY_S <= time.time():
            raise HTTPException(422, "keep_days counts from time: these images are over already")

        def change(gallery: Gallery, embeddings: np.ndarray) -> int:
            return gallery.enroll_embeddings(
                embeddings,
                pids if len(pids) == count else pids * count,
                camids=[camid] * count,
                times=[taken] * count,
                keep_s=days * DAY_S,
            )

        return {"enrolled": await _answer(desk, _job(upload, size, change=change)) if count else 0}

    @app.post("/forget", response_model=Forgotten)
    async def forget(request: Request) -> Any:
        """Delete all images of a `pid`; it stands in the body, since addresses are logged on the way."""
        upload = await received(request, limits, ("pid",))
        if len(pids := upload.text("pid")) != 1:
            raise HTTPException(422, "give one pid")

        def change(gallery: Gallery, _: np.ndarray) -> int:
            if pids[0] not in gallery.pids:
                raise HTTPException(404, "nobody of that name is enrolled")
            return gallery.forget(pids[0])

        return {"forgotten": await _answer(desk, Job(change=change))}

    @app.get("/healthz")
    async def health(response: Response) -> dict[str, bool]:
        """Whether questions are answered; 503 where the gallery is gone or damaged."""
        ready = await asyncio.to_thread(gallery.is_usable)
        response.status_code = 200 if ready else 503
        return {"ready": ready}

    @app.get("/metrics", response_class=Response)
    async def measure() -> Response:
        """Figures as Prometheus reads them."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    for path, (file, kind) in PARTS.items():
        app.add_api_route(f"/{path}", _static((PAGE / file).read_bytes(), kind), include_in_schema=False)
    return app


def _job(upload: Upload, size: tuple[int, int], **options: Any) -> Job:
    return Job(lambda: upload.pixels(size), upload.count, **options)


async def _answer(desk: Desk, job: Job) -> Any:
    return await asyncio.wrap_future(desk.ask(job))


def _as_answer(found: Identification) -> dict[str, Any]:
    return {
        "verdict": "nobody" if found.pid is None else "known",
        "pid": found.pid,
        "distance": found.distance if found.candidates else None,
        "nearest": [{key: getattr(each, key) for key in Near.model_fields} for each in found.candidates],
    }


def _static(content: bytes, kind: str) -> Callable:
    async def send() -> Response:
        return Response(content, media_type=kind)

    return send
