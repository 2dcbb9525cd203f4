"""An upstream that embeds, in the encoding that it is asked for or in the other one."""

import base64
import struct
from collections.abc import Callable

from tests.support import Script, Seen, json_reply

LENGTH = 3


def numbers_of(value: object) -> list[float]:
    """The vector of an input: it tells which one it is."""
    size = len(value) if isinstance(value, str | list) else 0
    return [size / 4, -0.5, 1.0]


def embedding(force: str | None) -> Callable[[Seen], Script]:
    """Answers requests for embeddings; ``force`` is an encoding, whatever is asked for."""

    def answer(seen: Seen) -> Script:
        value = seen.json["input"]
        several = isinstance(value, list) and not isinstance(value[0], int)
        vectors = [numbers_of(each) for each in (value if several else [value])]
        in_base64 = (force or seen.json.get("encoding_format")) == "base64"
        data = [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if in_base64 else vector}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": len(vectors), "total_tokens": len(vectors)}
        return json_reply({"object": "list", "data": data, "model": "up", "usage": usage})

    return answer


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
