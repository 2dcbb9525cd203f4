"""A gateway for the doors beside chat: models of every kind, groups, and forms."""

import contextlib
import itertools
import json
from collections.abc import Iterator
from typing import Any, Literal

from tests.support import Gateway, ScriptedUpstream, build_request

from .bed import KEY, UPSTREAM_KEYS, Answer, Bed, Body, adapter, yaml

#: The beginning of a model's name -> what it is for; models of other names may be asked for anything.
KINDS = {"embed": ["embedding"], "talk": ["chat"]}
_KINDS = ["any", "embed", "talk", "fault", "cut", "sound", "cutsound", "form"]


class DoorBed(Bed):
    """A bed with groups of two, asked in order, and adapters that each know some models' kinds."""

    #: How many models of each kind there are.
    each = 0

    def model(self, kind: str = "any") -> str:
        """A group that no other test has used: upstream a is asked first, then b."""
        number = next(self._numbers.setdefault(kind, itertools.count()))
        assert number < self.each, "every model is used"
        return f"{kind}-{number}"

    def request(self, path: str, body: Any, *, key: str = KEY, headers: Any = ()) -> bytes:
        """A POST of an object to a door."""
        pairs = [("Authorization", f"Bearer {key}"), ("Content-Type", "application/json"), *headers]
        host, port = self.gateway.host, self.gateway.port
        return build_request("POST", path, host, port, headers=pairs, body=json.dumps(body).encode())

    def raw_request(self, path: str, data: bytes) -> bytes:
        """A POST of bytes to a door."""
        pairs = [("Authorization", f"Bearer {KEY}"), ("Content-Type", "application/json")]
        return build_request("POST", path, self.gateway.host, self.gateway.port, headers=pairs, body=data)

    def call(self, path: str, body: Any, *, key: str = KEY, headers: Any = ()) -> Answer:
        """The answer to a POST of an object."""
        return self.send(self.request(path, body, key=key, headers=headers))

    def upload(self, path: str, form: bytes, boundary: str = "xYz", *, headers: Any = ()) -> Answer:
        """POST a form to a door."""
        kind = f"multipart/form-data; boundary={boundary}"
        pairs = {"Authorization": f"Bearer {KEY}", "Content-Type": kind} | dict(headers)
        host, port = self.gateway.host, self.gateway.port
        return self.send(build_request("POST", path, host, port, headers=pairs, body=form))


def form(*fields: tuple[str, bytes] | tuple[str, bytes, str]) -> bytes:
    """A form with these fields in order: name, value, and perhaps the name of a file."""
    parts = []
    for name, value, *file in fields:
        more = f'; filename="{file[0]}"\r\nContent-Type: application/octet-stream' if file else ""
        parts.append(f'--xYz\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n")
    return b"".join(parts) + b"--xYz--\r\n"


@contextlib.contextmanager
def running_doors(
    settings: Body | None = None, worker: Literal["one_api", "gthread"] = "one_api", each: int = 8, **sections: Any
) -> Iterator[DoorBed]:
    """A gateway with ``each`` groups of each kind over the upstreams a and b.

    ``settings`` adds to each adapter, ``sections`` are further ones.
    """
    with contextlib.ExitStack() as held:
        upstreams = {name: held.enter_context(ScriptedUpstream()) for name in UPSTREAM_KEYS}
        models = [f"{kind}-{number}" for kind in _KINDS for number in range(each)]
        kinds = {model: KINDS[start] for model in models if (start := model.partition("-")[0]) in KINDS}
        adapters = {
            name: adapter(
                upstream,
                models,
                api_key=UPSTREAM_KEYS[name],
                **{"kinds": kinds, "token_ids": name == "a", **(settings or {})},
            )
            for name, upstream in upstreams.items()
        }
        groups = {model: {"targets": [f"a/{model}", f"b/{model}"], "strategy": "ordered"} for model in models}
        groups |= sections.pop("model_groups", {})
        gateway = Gateway(env={"RATE_LIMIT_REQUESTS": "100000"}, worker=worker)
        address = {"host": gateway.host, "port": gateway.port}
        server = address | sections.pop("server", {})
        retry = {"budget": 1.0, **sections.pop("retry", {})}
        gateway.config_yaml = yaml(adapters=adapters, model_groups=groups, retry=retry, server=server, **sections)
        bed = DoorBed(held.enter_context(gateway), upstreams)
        bed.each = each
        yield bed
