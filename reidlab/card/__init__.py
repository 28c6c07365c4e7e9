"""The card of a run: what the network is, how good, how large, on what it runs, and what is not measured yet."""

from collections.abc import Callable
from pathlib import Path

from reidlab.card import closing, hardware, network, results, training, use
from reidlab.card.facts import image_size, trained_and_tested
from reidlab.card.parts import Card, Section
from reidlab.card.render import html, markdown
from reidlab.run import File, Run


def write_card(run: Run) -> Path:
    """Write `card.html` and `card.md` of a run from what is in its folder; returns the first.

    Nothing is computed but the drawing of the network and the table of its files, which go to `card/`. So does a
    `card.md` that somebody else wrote, as that of a released network.
    """
    run.require_own()
    training.keep_others_card(run)
    card = collect(run)
    run.write(File.CARD_MARKDOWN, markdown(card))
    return run.write(File.CARD, html(card, run.folder))


def collect(run: Run) -> Card:
    """All that a run's card says."""
    network.draw_network(run)
    network.list_files(run)
    made: tuple[Callable[[Run], Section], ...] = (
        closing.left_out, closing.purpose, use.use, training.data, results.results, results.parity, hardware.boards,
        network.architecture, network.interfaces, training.recipe, closing.limits, closing.licenses, closing.again,
    )  # fmt: skip
    if run.foreign_file:  # no stage made anything of it
        of_own = closing.left_out, use.use, results.parity, hardware.boards, training.recipe
        made = tuple(section for section in made if section not in of_own)
    what = "classifier" if run.is_classifier else "re-identification network"
    return Card(
        name=run.name,
        summary=f"{run.subject_name}, a {what} for {image_size(run)} images, {trained_and_tested(run)}",
        figures=closing.figures(run),
        sections=[section for section in (make(run) for make in made) if section.parts],
        metadata=closing.front_matter(run),
    )
