"""Secrets that are configured are seen nowhere: not in logs, answers, or what objects say of themselves."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from one_api.app import create_app
from one_api.config import Config
from tests.support import (
    Gateway,
    RawClient,
    Script,
    ScriptedUpstream,
    build_request,
    error,
    event,
    json_reply,
    post_chat,
    run_program,
    sse,
)

CANARIES = {
    "client": "sk-canary-client-7f3a91c2",
    "upstream": "sk-canary-upstream-51bd07ee",
    "redis": "canary-redis-9c44aa10",
    "openai": "sk-canary-env-e08d2f66",
    "anthropic": "sk-ant-canary-anthropic-2b6d90f1",
    "claude": "sk-ant-canary-env-77c1e5aa",
    "cache": "canary-cache-30f9d4b8",
}
CONFIG = """
api_keys: [{{name: alice, key: "${{CLIENT}}"}}]
adapters:
  a: {{type: openai, base_url: '{url}', api_key: "${{UPSTREAM}}", models: [m, echo, refused, leak]}}
  c: {{type: claude, base_url: '{url}', api_key: "${{ANTHROPIC}}", models: [c-echo, c-refused, c-leak],
      default_max_tokens: 9}}
  down: {{type: openai, base_url: 'http://127.0.0.1:9/v1', api_key: "${{UPSTREAM}}"}}
rate_limit: {{storage: "redis://:${{REDIS}}@127.0.0.1:9/0"}}
cache: {{enabled: true, storage: "redis://:${{CACHE}}@127.0.0.1:9/1"}}
"""


def found(text: str) -> list[str]:
    """Return the canaries in a text, whole or in large part."""
    return [name for name, secret in CANARIES.items() if secret in text or secret[-12:] in text]


def variables() -> dict[str, str]:
    """Return the environment that holds the secrets."""
    return {
        "CLIENT": CANARIES["client"],
        "UPSTREAM": CANARIES["upstream"],
        "REDIS": CANARIES["redis"],
        "ANTHROPIC": CANARIES["anthropic"],
        "CACHE": CANARIES["cache"],
        "OPENAI_API_KEY": CANARIES["openai"],
        "CLAUDE_API_KEY": CANARIES["claude"],
        "LOG_LEVEL": "debug",
    }


def test_no_log_line_and_no_answer_holds_a_secret() -> None:
    with ScriptedUpstream(models=["m"]) as upstream:
        upstream.on(
            "echo",
            lambda seen: error(400, f'{{"error": {{"message": "bad key {seen.headers.first("authorization")}"}}}}'),
        )
        upstream.on("refused", error(401, f"Incorrect API key provided: {CANARIES['upstream']}"))
        upstream.on(
            "c-echo", lambda seen: error(400, f'{{"error": {{"message": "bad {seen.headers.first("x-api-key")}"}}}}')
        )
        upstream.on("c-refused", error(401, f"invalid x-api-key: {CANARIES['anthropic']}"))
        with Gateway(config_yaml=CONFIG.format(url=upstream.base_url), env=variables()) as gateway:
            answers = []
            for model in ("m", "echo", "refused", "c-echo", "c-refused", "nope"):
                for key in (CANARIES["client"], "wrong", None):
                    body = {"model": model, "messages": [{"role": "user", "content": "x"}]}
                    with RawClient(gateway.host, gateway.port, timeout_s=10) as client:
                        client.send(post_chat(gateway.host, gateway.port, body, key))
                        response = client.read_response()
                        answers.append(f"{response.headers}{response.body!r}")
            key_header = [("Authorization", f"Bearer {CANARIES['client']}")]
            for path in (
                "/ready",
                "/health",
                "/openapi.json",
                "/nope",
                "/admin/routes/c-echo",
                "/admin/config",
                "/v1/models",
            ):
                with RawClient(gateway.host, gateway.port, timeout_s=10) as client:
                    client.send(build_request("GET", path, gateway.host, gateway.port, headers=key_header))
                    answers.append(repr(client.read_response().body))
            gateway.call_records(18)
            assert found("".join(answers)) == []
            assert found(gateway.log) == []
        assert any(
            seen.headers.first("authorization") == f"Bearer {CANARIES['upstream']}" for seen in upstream.requests
        )
        assert any(seen.headers.first("x-api-key") == CANARIES["anthropic"] for seen in upstream.requests)


#: Secrets of this configuration; the others are replaced by its file.
CONFIGURED = ("client", "upstream", "redis", "anthropic", "cache")
FIELDS = ("message", "code", "param", "type")


def leaks(secret: str, envelope: Mapping[str, object]) -> Iterator[Script]:
    """Every way in which an upstream may put a secret into an error: by field, whole, cut, in parts."""
    half = len(secret) // 2
    for field in FIELDS:
        for form in (secret, secret.upper(), f"x{secret}y", secret[:half], "\n".join(secret)):
            yield json_reply({**envelope, "error": {"message": "m", "type": "api_error", field: form}}, 400)
    for before in (490, 485, 3999, 3990):
        yield json_reply({**envelope, "error": {"message": "." * before + secret, "type": "api_error"}}, 500)
    yield error(503, {"error": {"message": f"one {secret[:half]}", "code": secret[half:], "type": "api_error"}})
    yield error(500, f"<html><title>{secret}</title></html>")
    yield error(
        429, {"detail": secret}, {"x-ratelimit-limit-tokens": secret, "anthropic-ratelimit-tokens-limit": secret}
    )
    yield error(402, {"error": {"message": f"no credit for {secret}"}})
    yield sse(event({"error": {"message": secret, "code": secret, "type": secret}}), done=False)
    yield [*error(400, b"", {"request-id": secret})]


def shown(text: str) -> list[str]:
    """Return the parts of secrets in a text, whatever stands between their characters."""
    bare = re.sub(r"\\+n|\s", "", text).lower()
    return [part for name in CONFIGURED for part in _parts(CANARIES[name]) if part in bare]


def _parts(secret: str) -> list[str]:
    return [secret[at : at + 10] for at in range(len(secret) - 9)]


def test_no_upstream_can_make_the_gateway_show_a_secret() -> None:
    scripts = [
        (model, script)
        for name in CONFIGURED
        for model, envelope in (("leak", {}), ("c-leak", {"type": "error"}))
        for script in leaks(CANARIES[name], envelope)
    ]
    with ScriptedUpstream() as upstream:
        for model in ("leak", "c-leak"):
            upstream.on(model, *[script for each, script in scripts if each == model])
        config = CONFIG.format(url=upstream.base_url) + "retry: {max_attempts: 1}\n"
        with Gateway(config_yaml=config, env={**variables(), "RATE_LIMIT_ENABLED": "false"}) as gateway:
            answers = [_ask(gateway, {"model": model, "stream": stream}) for stream, (model, _) in enumerate(scripts)]
            gateway.call_records(len(scripts))
            assert shown("".join(answers)) == []
            assert shown(gateway.log) == []
        assert len(upstream.requests) == len(scripts)


def _ask(gateway: Gateway, fields: dict[str, object]) -> str:
    """Return the head and the body of an answer."""
    body = {**fields, "stream": bool(int(str(fields["stream"])) % 2), "messages": [{"role": "user", "content": "x"}]}
    with RawClient(gateway.host, gateway.port, timeout_s=10) as client:
        client.send(post_chat(gateway.host, gateway.port, body, CANARIES["client"]))
        response = client.read_response()
        return f"{response.headers}{response.body!r}"


def test_no_object_tells_a_secret(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.format(url="http://127.0.0.1:9/v1"))
    config = Config.load({**variables(), "ONE_API_CONFIG": str(path), "ONE_API_ENV_FILE": "/dev/null"})
    app = create_app(config)
    seen: set[int] = set()
    told: list[str] = []

    def tell(thing: object, depth: int) -> None:
        if id(thing) in seen or depth > 6:
            return
        seen.add(id(thing))
        told.append(repr(thing))
        children = thing.values() if isinstance(thing, dict) else thing if isinstance(thing, (list, tuple, set)) else ()
        names = [name for kind in ("__dict__", "__slots__", "__struct_fields__") for name in getattr(thing, kind, ())]
        for child in (*children, *(getattr(thing, name, None) for name in names)):
            if type(child).__module__.startswith("one_api") or isinstance(child, (dict, list, tuple, set)):
                tell(child, depth + 1)

    tell(app.extensions, 0)
    assert len(told) > 20
    assert found("".join(told)) == []


def test_the_commands_mask_secrets(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.format(url="http://127.0.0.1:9/v1"))
    env = {**variables(), "ONE_API_CONFIG": str(path), "ONE_API_ENV_FILE": "/dev/null", "PATH": "/usr/bin:/bin"}
    done = run_program("one_api", "config", "check", env=env)
    assert done.returncode == 0
    assert "***" in done.stdout
    assert found(done.stdout + done.stderr) == []
    assert not re.search(r"canary", done.stdout + done.stderr)


def test_it_does_not_start_where_others_can_reach_it_without_a_key() -> None:
    env = {"ONE_API_ENV_FILE": "/dev/null", "HOST": "0.0.0.0", "LOCAL_MODELS_ENABLED": "false", "PATH": "/usr/bin:/bin"}
    done = run_program("gunicorn", "wsgi:app", env=env)
    assert done.returncode != 0
    assert "API_KEYS" in done.stderr
