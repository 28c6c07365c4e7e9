"""How good a network is: embeddings of a split, retrieval, classification, and what they look like."""

from torch import nn

from reidlab.data import ImageDataModule
from reidlab.evaluation.classification import Classification
from reidlab.evaluation.outputs import Outputs, embed
from reidlab.evaluation.protocols import ClassificationProtocol, Protocol, RetrievalProtocol, protocol_of
from reidlab.evaluation.retrieval import TEST, VALIDATION, Retrieval

__all__ = [
    "TEST",
    "VALIDATION",
    "Classification",
    "ClassificationProtocol",
    "Outputs",
    "Protocol",
    "Retrieval",
    "RetrievalProtocol",
    "embed",
    "evaluate",
    "protocol_of",
]


def evaluate(
    network: nn.Module, datamodule: ImageDataModule, protocol: Protocol, device: str = "cpu", label: str = "test"
) -> Retrieval | Classification:
    """Score a network on the test split of a data module; the progress bar is named `label`."""
    return protocol.evaluate(embed(network, datamodule, datamodule.test, device, label))
