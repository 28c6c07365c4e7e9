"""Command `serve --gallery`: identify, enroll and forget over HTTP."""

from dataclasses import fields
from pathlib import Path

from reidlab import service
from reidlab.run import Run
from reidlab.stages.enroll import open_gallery


def run(run: Run, host: str, port: int, token_file: Path | None) -> None:
    """Serve the gallery of a run until it is interrupted; by the options of `conf/gallery` and `conf/service`.

    Raises InputError where `reidlab identify` would, and as `reidlab.service.serve` does.

    Args:
        run: whose network embeds images.
        host: name or address to listen at.
        port: of it.
        token_file: with the token that requests must carry; needed where other machines reach the address.
    """
    token = None if token_file is None else service.read_token(token_file)
    limits = service.Limits(**{field.name: run[f"service.{field.name}"] for field in fields(service.Limits)})
    service.serve(
        open_gallery(run),
        limits,
        threshold=run["gallery.threshold"],
        k=run["gallery.k"],
        host=host,
        port=port,
        token=token,
    )
