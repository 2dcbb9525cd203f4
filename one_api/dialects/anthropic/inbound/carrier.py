"""Reasoning of models that are not Anthropic's, in the signatures of thinking blocks: clients bring these back."""

from one_api.dialects.sealing import Sealer


class Carrier:
    """Seals reasoning of one model for one owner, and opens no other's."""

    def __init__(self, secret: bytes, model: str) -> None:
        """``secret`` is the owner's; ``model`` is the name that the client asks for."""
        self.secret = secret
        self._sealer = Sealer(secret)
        self._model = model

    def seal(self, reasoning: str) -> str:
        """Return the signature that carries ``reasoning``."""
        return self._sealer.seal({"model": self._model, "reasoning": reasoning})

    def open(self, signature: str) -> str | None:
        """Return the reasoning in a signature; None when it is not ours, or of another model or owner."""
        content = self._sealer.open(signature)
        if content is None or content.get("model") != self._model:
            return None
        reasoning = content.get("reasoning")
        return reasoning if isinstance(reasoning, str) else None
