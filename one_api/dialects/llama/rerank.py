"""Reranking by the local engine: what it is asked, and its scores as the answer that Cohere, Jina and vLLM give."""

from dataclasses import dataclass
from typing import Any

from one_api.dialects.json import JSONObject
from one_api.dialects.llama.parameters import check_number, wrong_type
from one_api.dialects.payloads import InvalidAnswer
from one_api.errors import InvalidRequest

#: More documents no request may have.
_MAX_DOCUMENTS = 2048


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """A checked request. ``documents`` are the texts, ``given`` what the client sent for each."""

    query: str
    documents: list[str]
    given: list[Any]
    top_n: int
    return_documents: bool

    @classmethod
    def read(cls, fields: JSONObject) -> "RerankRequest":
        """Check the fields of a request; raises InvalidRequest with ``param`` and ``code``."""
        query, given = fields.get("query"), fields.get("documents")
        if not isinstance(query, str) or not query:
            raise wrong_type("query", "a string that is not empty")
        if not isinstance(given, list) or not given:
            raise wrong_type("documents", "an array of at least one document")
        if len(given) > _MAX_DOCUMENTS:
            raise InvalidRequest(
                f"`documents` has {len(given)} entries: at most {_MAX_DOCUMENTS} are possible.",
                param="documents",
                code="array_above_max_length",
            )
        texts = [_text_of(document, f"documents[{i}]") for i, document in enumerate(given)]
        top_n = fields.get("top_n")
        if top_n is not None:
            check_number("top_n", top_n, 1, 2**31, "integer")
        return cls(query, texts, given, top_n or len(given), fields.get("return_documents") is True)

    def answer(self, scores: list[float], answer_id: str, model: str, prompt_tokens: int) -> JSONObject:
        """Return the answer, given the score of each document: the best ones first."""
        best = sorted(range(len(scores)), key=lambda index: -scores[index])[: self.top_n]
        results: list[JSONObject] = [{"index": index, "relevance_score": scores[index]} for index in best]
        if self.return_documents:
            for result in results:
                document = self.given[result["index"]]
                result["document"] = {"text": document} if isinstance(document, str) else document
        usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
        return {"id": answer_id, "object": "list", "model": model, "results": results, "usage": usage}


def _text_of(document: Any, where: str) -> str:
    text = document.get("text") if isinstance(document, dict) else document
    if not isinstance(text, str):
        raise wrong_type(where, "a string, or an object with a `text`")
    return text


def scores_in(answer: JSONObject, documents: int) -> tuple[list[float], int]:
    """Return the scores in an answer of the engine, by the order of the documents, and the tokens that they took.

    Raises:
        InvalidAnswer: when it does not hold one for each.
    """
    results, usage = answer.get("results"), answer.get("usage")
    found = {each.get("index"): each.get("relevance_score") for each in results} if isinstance(results, list) else {}
    scores = [found.get(index) for index in range(documents)]
    if not all(isinstance(score, (int, float)) for score in scores):
        raise InvalidAnswer("it does not hold a score for each document")
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return [float(score or 0) for score in scores], tokens if isinstance(tokens, int) else 0
