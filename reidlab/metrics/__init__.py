"""Figures of embeddings and class scores: ranking, verification, accuracy, and their uncertainty."""

from reidlab.metrics.classification import ClassScores, share_interval
from reidlab.metrics.expansion import expand_queries, flip_averaged
from reidlab.metrics.pairing import leave_one_out
from reidlab.metrics.ranking import Ranking, TopK, rank, rank_blocks, top_k
from reidlab.metrics.reranking import rank_reranked, rerank
from reidlab.metrics.shots import single_shot
from reidlab.metrics.uncertainty import Difference, Interval, confidence_intervals, mean_interval, paired_test
from reidlab.metrics.verification import Verification, verify

__all__ = [
    "ClassScores",
    "Difference",
    "Interval",
    "Ranking",
    "TopK",
    "Verification",
    "confidence_intervals",
    "expand_queries",
    "flip_averaged",
    "leave_one_out",
    "mean_interval",
    "paired_test",
    "rank",
    "rank_blocks",
    "rank_reranked",
    "rerank",
    "share_interval",
    "single_shot",
    "top_k",
    "verify",
]
