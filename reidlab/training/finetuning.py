"""Training regimes: from scratch, transfer, fine-tuning."""

from torch import nn

from reidlab.errors import InputError
from reidlab.models import ReIdNetwork


class Regime:
    """Learning rates and freezing of a network's backbone and head.

    The backbone learns at `backbone_lr_scale` times the head's rate, from the epoch `head_epochs` on (Zhou et al. 2019,
    section 4.1); until then, or always where `backbone_lr_scale` is 0, its weights and its BN statistics are frozen.
    """

    def __init__(self, backbone_lr_scale: float = 1.0, head_epochs: int = 0):
        if backbone_lr_scale < 0 or head_epochs < 0:
            raise InputError(
                f"regime.backbone_lr_scale={backbone_lr_scale}, regime.head_epochs={head_epochs}: use 0 or more"
            )
        self.backbone_lr_scale, self.head_epochs = backbone_lr_scale, head_epochs

    def parameter_groups(self, network: ReIdNetwork, lr: float) -> list[dict]:
        """The optimizer's groups: the head at rate `lr`, and the backbone unless it is always frozen."""
        slow = [p for module in backbone(network) for p in module.parameters()]
        in_backbone = set(map(id, slow))
        head = [p for p in network.parameters() if id(p) not in in_backbone and p.requires_grad]
        groups = [{"params": head, "lr": lr}]
        if self.backbone_lr_scale:
            groups.append({"params": slow, "lr": lr * self.backbone_lr_scale})
        return groups

    def begin_epoch(self, network: ReIdNetwork, epoch: int) -> None:
        """Freeze or unfreeze the backbone."""
        if not self.head_epochs and self.backbone_lr_scale:
            return
        learns = epoch >= self.head_epochs and self.backbone_lr_scale > 0
        for module in backbone(network):
            module.requires_grad_(learns).train(learns)


def backbone(network: ReIdNetwork) -> list[nn.Module]:
    """The stages under a network's head."""
    return [getattr(network, stage) for stage in network.stages]
