"""The stream handed upward: it counts as the deployment's success or failure, and ends exactly once."""

from one_api.errors import UpstreamError
from one_api.models.adapters.base import ChunkStream
from one_api.models.deployment import Attempt
from one_api.wire.json import JSONObject


class Delivery(ChunkStream):
    """A deployment's stream, under the model name that the client is to see."""

    def __init__(self, stream: ChunkStream, attempt: Attempt, shown_model: str | None) -> None:
        self._stream = stream
        self._attempt = attempt
        #: None leaves the upstream's own name.
        self._shown_model = shown_model

    async def read(self) -> list[JSONObject]:
        """See ``ChunkStream``; the end and an error settle the attempt."""
        try:
            chunks = await self._stream.read()
        except UpstreamError as error:
            self._attempt.settle(error)
            raise
        finally:
            self.usage, self.ended = self._stream.usage, self._stream.ended
        if self.ended:
            self._attempt.settle("ok", self.usage.completion_tokens if self.usage else None)
        if self._shown_model is not None:
            for chunk in chunks:
                chunk["model"] = self._shown_model
        return chunks

    async def aclose(self) -> None:
        """Let go of the upstream; a stream that had not ended counts as cancelled."""
        try:
            await self._stream.aclose()
        finally:
            self._attempt.settle("cancelled")
