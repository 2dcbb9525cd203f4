"""The events of a chat stream, as OpenAI writes them."""

from one_api.dialects import sse
from one_api.dialects.event_writer import EventWriter
from one_api.dialects.json import JSONObject
from one_api.errors import GatewayError


class ChatEventWriter(EventWriter):
    """Chunks as they are, and ``[DONE]`` only after a complete answer; any other ends with one error event."""

    is_stateless = True

    def begin(self) -> bytes:
        """See ``EventWriter``: a chat stream begins with its first chunk."""
        return b""

    def heartbeat(self) -> bytes:
        """See ``EventWriter``."""
        return sse.HEARTBEAT

    def write(self, chunks: list[JSONObject]) -> bytes:
        """See ``EventWriter``."""
        return b"".join(map(sse.encode_event, chunks))

    def end(self) -> bytes:
        """See ``EventWriter``."""
        return sse.DONE

    def fail(self, error: GatewayError) -> bytes:
        """See ``EventWriter``."""
        return sse.encode_event(error.to_openai())
