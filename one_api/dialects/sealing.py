"""What a model thought, sealed for the client to keep and to bring back: no process has to remember it.

A sealed text can be read and made only with the secret, and the same content gives the same text, which
prompt caches of upstreams need. The construction is SIV (RFC 5297: the nonce is a keyed digest of the content), of
HMAC-SHA256 for the digest and SHAKE-256 for the stream of bytes that hides the content.
"""

import base64
import binascii
import hashlib
import hmac
from functools import cached_property

from one_api.dialects import json
from one_api.dialects.json import JSONObject

#: How a sealed text of this version begins.
PREFIX = "gw1."
_TAG_BYTES = 32
#: A longer text is not one of ours.
_MAX_CHARACTERS = 16 * 1024 * 1024


class Sealer:
    """Seals and opens with one secret, which is one owner's: texts of others cannot be opened."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    # Only when something is to be sealed or opened: most requests carry nothing.

    @cached_property
    def _digest_key(self) -> bytes:
        return hmac.digest(self._secret, b"one_api carrier digest", "sha256")

    @cached_property
    def _stream_key(self) -> bytes:
        return hmac.digest(self._secret, b"one_api carrier stream", "sha256")

    def seal(self, content: JSONObject) -> str:
        """Return ``content`` as a text that only this secret opens."""
        data = json.encode(content)
        tag = hmac.digest(self._digest_key, data, "sha256")
        return PREFIX + base64.urlsafe_b64encode(tag + self._hidden(data, tag)).decode()

    def open(self, sealed: str) -> JSONObject | None:
        """Return the content of a sealed text; None when it was not sealed with this secret, or was changed."""
        if not sealed.startswith(PREFIX) or len(sealed) > _MAX_CHARACTERS:
            return None
        try:
            raw = base64.b64decode(sealed.removeprefix(PREFIX).encode(), altchars=b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError):
            return None
        tag, data = raw[:_TAG_BYTES], self._hidden(raw[_TAG_BYTES:], raw[:_TAG_BYTES])
        if not hmac.compare_digest(tag, hmac.digest(self._digest_key, data, "sha256")):
            return None
        return json.decode_object(data)

    def _hidden(self, data: bytes, tag: bytes) -> bytes:
        """Return ``data`` combined with the stream of bytes for ``tag``; a second time gives ``data`` again."""
        stream = hashlib.shake_256(self._stream_key + tag).digest(len(data))
        return (int.from_bytes(data) ^ int.from_bytes(stream)).to_bytes(len(data))
