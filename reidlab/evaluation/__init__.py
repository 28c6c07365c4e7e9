"""Evaluation of networks: outputs for a split, retrieval, classification, and pictures of both."""

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
    """Score a network on the test split of a data module.

    Args:
        network: embeds or, as `Confidences`, classifies.
        datamodule: prepares the images.
        protocol: of the evaluation.
        device: cpu, cuda or another of torch's.
        label: of the progress bar.
    """
    return protocol.evaluate(embed(network, datamodule, datamodule.test, device, label))
