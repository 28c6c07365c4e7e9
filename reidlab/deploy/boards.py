"""STM32 boards and the memory on their chips, from the makers' data sheets."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Board:
    """A board and its on-chip memory in KiB, None where memory is external and ample.

    `target` is the name of its chip in STEdgeAI Core.
    """

    name: str
    chip: str
    ram_kib: int | None
    flash_kib: int | None
    target: str | None = None

    def fits(self, ram_kib: float | None, flash_kib: float | None) -> bool | None:
        """Whether both amounts fit on the chip; None where one is unknown."""
        limits = [(need, room) for need, room in ((ram_kib, self.ram_kib), (flash_kib, self.flash_kib)) if room]
        if any(need is not None and need > room for need, room in limits):
            return False
        return None if any(need is None for need, _ in limits) else True


BOARDS = {
    board.name: board
    for board in (
        Board("STM32H747I-DISCO", "Cortex-M7, 400 MHz", 1024, 2048, "stm32h7"),
        Board("STM32F769I-DISCO", "Cortex-M7, 216 MHz", 512, 2048, "stm32f7"),
        Board("STM32N6570-DK", "Cortex-M55 and Neural-ART NPU", 4300, None, "stm32n6"),
        Board("B-U585I-IOT02A", "Cortex-M33, 160 MHz", 786, 2048, "stm32u5"),
        Board("STM32MP135F-DK2", "Cortex-A7, 1 GHz, 1 core", None, None),
        Board("STM32MP157F-DK2", "Cortex-A7, 800 MHz, 2 cores", None, None),
        Board("STM32MP257F-DK2", "Cortex-A35 and NPU, 800 MHz", None, None),
    )
}
