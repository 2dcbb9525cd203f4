"""``/admin`` on an address of its own: nowhere else, and only for whom it is meant."""

import json
import os
import socket
from collections.abc import Iterator
from typing import Literal

import pytest

from tests.support import Gateway, RawClient, free_port, run_program

from .clients import ask, request, wait_until

ADMIN = {"Authorization": "Bearer admin-key"}
PATHS = ["/admin/config", "/admin/routes/m", "/admin/config/reload", "/admin", "/admin/nothing"]


class Apart(Gateway):
    """A gateway with a second address, for ``/admin``."""

    admin_port: int

    def admin_status(self, path: str = "/admin/config", source: str = "127.0.0.1", host: str | None = None) -> int:
        """The status of a request to the second address, from ``source``."""
        head = f"GET {path} HTTP/1.1\r\nHost: {host or f'127.0.0.1:{self.admin_port}'}\r\n"
        with socket.create_connection(("127.0.0.1", self.admin_port), 10, (source, 0)) as connection:
            connection.sendall(f"{head}Authorization: Bearer admin-key\r\nConnection: close\r\n\r\n".encode())
            return int(connection.makefile("rb").readline().split()[1])

    def sections(self, **admin: object) -> str:
        """The file, with another section for ``/admin``."""
        return json.dumps({"admin": {"listen": f"127.0.0.1:{self.admin_port}", **admin}})


def apart(worker: Literal["one_api", "gthread"] = "one_api") -> Apart:
    """One that is not started yet."""
    gateway = Apart(worker=worker)
    gateway.admin_port = free_port()
    gateway.config_yaml = gateway.sections()
    return gateway


@pytest.fixture(scope="module")
def gateway() -> Iterator[Apart]:
    with apart() as gateway:
        yield gateway


@pytest.mark.parametrize("path", PATHS)
def test_the_public_address_knows_nothing_of_it(gateway: Apart, path: str) -> None:
    asked = {**ADMIN, "Origin": "http://localhost", "Access-Control-Request-Method": "POST"}
    for method in ("GET", "POST", "OPTIONS", "DELETE"):
        answer = ask(gateway, request(gateway, method, path, asked))
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (404, "unknown_url"), method
        assert answer.headers.first("allow") is None


def test_other_workers_keep_it_apart_too() -> None:
    with apart("gthread") as gateway:
        assert ask(gateway, request(gateway, "GET", "/admin/config", ADMIN)).status == 404
        assert gateway.admin_status() == 200


def test_its_own_address_answers_with_the_key_to_names_that_nobody_else_can_have(gateway: Apart) -> None:
    assert gateway.admin_status() == 200
    assert gateway.admin_status(host="localhost") == 200
    assert gateway.admin_status(host="evil.example") == 403
    with RawClient(gateway.host, gateway.admin_port) as client:
        client.send(request(gateway, "GET", "/admin/config", {"Authorization": "Bearer test-key"}))
        assert client.read_response().status == 403


def test_commands_find_it(gateway: Apart) -> None:
    done = run_program("flask", "--app", "wsgi", "config", "reload", env=gateway.environment)
    assert (done.returncode, "every process uses" in done.stdout) == (0, True), done.stderr


def test_who_may_ask_can_be_changed_while_it_serves_and_the_address_cannot(gateway: Apart) -> None:
    assert gateway.admin_status(source="127.0.0.2") == 200
    gateway.config_path.write_text(gateway.sections(allow=["127.0.0.2", "192.0.2.0/24"]))
    gateway.hang_up()
    wait_until(lambda: gateway.admin_status() == 403, "the new list")
    assert gateway.admin_status(source="127.0.0.2") == 200
    gateway.config_path.write_text(gateway.sections(listen=f"127.0.0.1:{free_port()}"))
    gateway.hang_up()
    gateway.wait_for_log("need a restart: admin.listen")
    assert gateway.admin_status() == 200


def test_an_address_that_is_taken_is_one_sentence_that_names_the_setting() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as holder:
        port = holder.getsockname()[1]
        env = {"ONE_API_ENV_FILE": os.devnull, "PORT": str(free_port()), "ADMIN_LISTEN": f"127.0.0.1:{port}"}
        done = run_program("gunicorn", "wsgi:app", env=env)
    assert done.returncode == 1
    assert f"Port {port} is in use" in done.stderr
    assert "set ADMIN_LISTEN to another" in done.stderr


def test_the_start_says_where_it_is_and_that_it_is_nowhere() -> None:
    port = free_port()
    env = {"ADMIN_LISTEN": f"127.0.0.1:{port}", "ADMIN_ALLOW": "127.0.0.1,10.0.0.0/8", "LOG_FORMAT": "text"}
    with Gateway(env=env) as gateway:
        gateway.wait_for_log(f"http://127.0.0.1:{port}/admin, for 127.0.0.1, 10.0.0.0/8")
    elsewhere = Gateway()
    elsewhere.env = {**env, "GUNICORN_CMD_ARGS": f"--bind 127.0.0.1:{elsewhere.port}"}
    with elsewhere:
        elsewhere.wait_for_log(f"nowhere: this server does not listen on 127.0.0.1:{port}")
        assert ask(elsewhere, request(elsewhere, "GET", "/admin/config", ADMIN)).status == 404
