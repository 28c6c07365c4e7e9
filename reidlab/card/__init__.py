"""The card of a run: what the network is, how good, how large, on what it runs, and what nobody has measured yet."""

from pathlib import Path

from reidlab.card import closing, hardware, network, results, training
from reidlab.card.parts import Card
from reidlab.card.record import Record
from reidlab.card.render import html, markdown
from reidlab.files import write_atomic


def run(cfg) -> Path:
    """Write `card.html` and `card.md` of a run from what is in its folder; returns the first.

    Nothing is computed but the drawing of the network and what its files say of themselves, which go to `card/`.
    """
    card, folder = collect(cfg), Record(cfg).folder
    write_atomic(folder / "card.md", markdown(card))
    return write_atomic(folder / "card.html", html(card, folder))


def collect(cfg) -> Card:
    """All that a run's card says."""
    record = Record(cfg)
    network.draw_network(record)
    network.list_files(record)
    made = (
        closing.purpose, network.architecture, network.interfaces, training.data, training.recipe, results.results,
        results.parity, hardware.boards, closing.limits, closing.licences, closing.again,
    )  # fmt: skip
    what = "classifier" if record.tells_classes else "re-identification network"
    return Card(
        name=record.folder.name,
        summary=f"{cfg.model.name}, a {what} for {record.size} images, on {cfg.data.name}",
        figures=closing.figures(record),
        sections=[section(record) for section in made],
        metadata=closing.front_matter(record),
    )
