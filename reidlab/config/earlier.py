"""Configs of earlier releases in the present spelling."""

from typing import Any

MOVED_MODULES = {  # of classes in configs that earlier releases stored
    "reidlab.tasks": "reidlab.training.tasks",
    "reidlab.losses": "reidlab.training.losses",
    "reidlab.optimizers": "reidlab.training.optimizers",
    "reidlab.schedules": "reidlab.training.schedules",
    "reidlab.callbacks": "reidlab.training.callbacks",
    "reidlab.regimes": "reidlab.training.finetuning",
    "reidlab.distill": "reidlab.training.distillation",
}
RENAMED_KEYS = {
    "regime.trunk_rate": "regime.backbone_lr_scale",
    "data.about.licence": "data.about.license",
    "card.licence": "card.license",
}
RENAMED_VALUES = {"colour-histogram": "color-histogram"}
NOT_OF_CLASSES = ("num_instances", "camera_balanced", "class_balanced", "exclude_same_camera")  # keys of `data`

PADDED = tuple(f"reidlab.models.{family}" for family in ("osnet", "fdmobilenet", "st_fdmobilenet"))  # with a `padding`


def modernize(config: Any) -> Any:
    """A stored config in the present spelling: classes that have moved, keys and values that have other names."""
    config = _with_moved_targets(config)
    for old, new in RENAMED_KEYS.items():
        *parents, name = old.split(".")
        node = config
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict) and name in node:
            node[new.rpartition(".")[2]] = node.pop(name)
    task, data = config.get("task"), config.get("data")
    if isinstance(task, dict) and "kind" not in task:
        task["kind"] = "classification" if str(task.get("_target_")).endswith("ClassificationTask") else "reid"
    if isinstance(data, dict) and str(data.get("_target_")).endswith("ClassDataModule"):
        for key in NOT_OF_CLASSES:
            data.pop(key, None)
    elif isinstance(data, dict) and "exclude_same_camera" in data:
        data.setdefault("val_identities", 1)
    network = config["model"].get("network") if isinstance(config.get("model"), dict) else None
    if isinstance(network, dict) and str(network.get("_target_")).startswith(PADDED):
        network.setdefault("padding", "symmetric")
    best = config["callbacks"].get("best") if isinstance(config.get("callbacks"), dict) else None
    if isinstance(best, dict) and str(best.get("_target_")).endswith(".ModelCheckpoint"):
        best["_target_"] = "reidlab.training.callbacks.BestEpoch"
    return config


def _with_moved_targets(node: Any) -> Any:
    if isinstance(node, dict):
        moved = {key: _with_moved_targets(value) for key, value in node.items()}
        if isinstance(target := moved.get("_target_"), str):
            module, _, name = target.rpartition(".")
            moved["_target_"] = f"{MOVED_MODULES.get(module, module)}.{name}"
        return moved
    if isinstance(node, list):
        return [_with_moved_targets(item) for item in node]
    return RENAMED_VALUES.get(node, node) if isinstance(node, str) else node
