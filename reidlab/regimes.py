"""What of a network learns, when, and how fast: from scratch, transfer, fine-tuning."""

from torch import nn

from reidlab.errors import InputError


class Regime:
    """Staged learning of a network's trunk and head.

    The trunk learns at `trunk_rate` times the head's rate, from the epoch `head_epochs` on (Zhou et al. 2019, section
    4.1); until then, or always where `trunk_rate` is 0, its weights and its BN statistics stay as they are.
    """

    def __init__(self, trunk_rate: float = 1.0, head_epochs: int = 0):
        if trunk_rate < 0 or head_epochs < 0:
            raise InputError(f"regime.trunk_rate={trunk_rate}, regime.head_epochs={head_epochs}: use 0 or more")
        self.trunk_rate, self.head_epochs = trunk_rate, head_epochs

    def parameter_groups(self, network: nn.Module, lr: float) -> list[dict]:
        """An optimizer's groups: the head at rate `lr`, and the trunk unless it never learns."""
        slow = [p for module in trunk(network) for p in module.parameters()]
        in_trunk = set(map(id, slow))
        groups = [{"params": [p for p in network.parameters() if id(p) not in in_trunk and p.requires_grad], "lr": lr}]
        if self.trunk_rate:
            groups.append({"params": slow, "lr": lr * self.trunk_rate})
        return groups

    def begin_epoch(self, network: nn.Module, epoch: int) -> None:
        """Close or open the trunk."""
        if not self.head_epochs and self.trunk_rate:
            return
        opened = epoch >= self.head_epochs and self.trunk_rate > 0
        for module in trunk(network):
            module.requires_grad_(opened).train(opened)


def trunk(network: nn.Module) -> list[nn.Module]:
    """The stages under a network's head."""
    return [getattr(network, stage) for stage in network.stages]
