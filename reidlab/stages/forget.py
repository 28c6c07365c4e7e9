"""Command `forget`: delete an identity from a gallery, so that no file of it holds a trace."""

from reidlab.console import log
from reidlab.gallery import Gallery
from reidlab.run import Run
from reidlab.stages.enroll import gallery_folder


def run(run: Run, pid: str) -> int:
    """Delete all images of an identity, whichever checkpoint enrolled them; how many. InputError for an unknown one."""
    gallery = Gallery.open(gallery_folder(run))
    count = gallery.forget(pid)
    log.info(f"{gallery.place}: {count} images of {pid} deleted; {len(gallery)} images stay")
    return count
