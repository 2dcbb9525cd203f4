"""Rankings of the local engine: scores find their documents, wherever they stand."""

from typing import Any

import pytest

from one_api.dialects.llama.rerank import RerankRequest, scores_in
from one_api.dialects.payloads import InvalidAnswer


def engine_says(*pairs: tuple[int, float]) -> Any:
    """An answer of the engine, which sorts."""
    results = [{"index": index, "relevance_score": score} for index, score in pairs]
    return {"results": results, "usage": {"prompt_tokens": 9}}


def test_scores_are_brought_into_the_order_of_the_documents() -> None:
    assert scores_in(engine_says((2, 0.9), (0, 0.5), (1, -3)), 3) == ([0.5, -3.0, 0.9], 9)


@pytest.mark.parametrize("answer", [{}, {"results": None}, engine_says((0, 1.0)), engine_says((0, 1.0), (0, 2.0))])
def test_an_answer_without_a_score_for_each_is_none(answer: Any) -> None:
    with pytest.raises(InvalidAnswer):
        scores_in(answer, 2)


def test_the_best_come_first_with_their_documents() -> None:
    asked = RerankRequest.read(
        {"query": "q", "documents": ["a", {"text": "b", "id": 7}, "c"], "top_n": 2, "return_documents": True}
    )

    answer = asked.answer([0.1, 0.3, 0.2], "rerank-1", "ranker", 9)

    assert answer == {
        "id": "rerank-1",
        "object": "list",
        "model": "ranker",
        "results": [
            {"index": 1, "relevance_score": 0.3, "document": {"text": "b", "id": 7}},
            {"index": 2, "relevance_score": 0.2, "document": {"text": "c"}},
        ],
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
    }
    assert asked.documents == ["a", "b", "c"]
