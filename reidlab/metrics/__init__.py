"""How good embeddings are: ranking, re-ranking, verification and the uncertainty of all three."""

from reidlab.metrics.ranking import Ranking, TopK, rank, rank_blocks, top_k
from reidlab.metrics.reranking import rank_reranked, rerank
from reidlab.metrics.retrieval import ReidMetric

__all__ = ["Ranking", "ReidMetric", "TopK", "rank", "rank_blocks", "rank_reranked", "rerank", "top_k"]
