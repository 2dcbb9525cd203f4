"""The real nginx, Caddy and HAProxy, with the files of ``deploy`` and other addresses."""

import contextlib
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.serving.clients import wait_until
from tests.support import free_port

from .tools import DEPLOY, ROOT, tool

#: A certificate for localhost and 127.0.0.1, with its key, of the authority beside it.
CERTIFICATE = ROOT / "tests/faults/certificates/valid.pem"
_NGINX = """\
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/one_api.conf;
}}
"""


@dataclass
class Proxy:
    """One in front of two gateways. Its files are in ``folder``, which it may write to."""

    folder: Path
    gateways: tuple[str, str]
    port: int = field(default_factory=free_port)

    def file(self, example: str, *replaced: tuple[str, str]) -> Path:
        """Write an example's text into the folder, with the gateways' addresses and these replacements."""
        text = (DEPLOY / example).read_text()
        for old, new in [*replaced, ("127.0.0.1:8001", self.gateways[0]), ("127.0.0.1:8002", self.gateways[1])]:
            assert old in text, f"{example} has no {old!r}"
            text = text.replace(old, new)
        written = self.folder / Path(example).name
        written.write_text(text)
        return written

    @contextlib.contextmanager
    def running(self, *command: str) -> Iterator["Proxy"]:
        """Run the program until the context is left."""
        with (self.folder / "output").open("wb") as output:
            process = subprocess.Popen(
                command, cwd=self.folder, env={"HOME": str(self.folder)}, stdout=output, stderr=output
            )
        try:
            wait_until(lambda: process.poll() is not None or self._listens(), f"{command[0]} to listen")
            assert process.poll() is None, (self.folder / "output").read_text()
            yield self
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False


@contextlib.contextmanager
def nginx(proxy: Proxy) -> Iterator[Proxy]:
    """nginx, by TLS."""
    program = tool("nginx")
    proxy.file(
        "nginx/one_api.conf",
        ("listen 443 ssl", f"listen 127.0.0.1:{proxy.port} ssl"),
        ("/etc/ssl/one_api.pem", str(CERTIFICATE)),
        ("/etc/ssl/one_api.key", str(CERTIFICATE)),
    )
    main = proxy.folder / "nginx.conf"
    main.write_text(_NGINX.format(folder=proxy.folder))
    settings = ["-p", str(proxy.folder), "-e", str(proxy.folder / "log"), "-c", str(main)]
    checked = subprocess.run([program, *settings, "-t"], capture_output=True, text=True, timeout=30)
    assert (checked.returncode, "[warn]" in checked.stderr) == (0, False), checked.stderr
    # Its workers have another user where it is started by root, and need the folder.
    for path in [proxy.folder, *proxy.folder.parents[:2]]:
        path.chmod(path.stat().st_mode | 0o011)
    with proxy.running(program, *settings):
        yield proxy


@contextlib.contextmanager
def caddy(proxy: Proxy) -> Iterator[Proxy]:
    """Caddy, by TLS with a certificate of our own."""
    program = tool("caddy")
    written = proxy.file(
        "caddy/Caddyfile",
        ("one-api.example.com {", f"https://127.0.0.1:{proxy.port} {{\n\ttls {CERTIFICATE} {CERTIFICATE}"),
    )
    written.write_text("{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + written.read_text())
    with proxy.running(program, "run", "--adapter", "caddyfile", "--config", str(written)):
        yield proxy


@contextlib.contextmanager
def haproxy(proxy: Proxy) -> Iterator[Proxy]:
    """HAProxy, by TLS."""
    program = tool("haproxy")
    written = proxy.file(
        "haproxy/haproxy.cfg", ("bind :443", f"bind 127.0.0.1:{proxy.port}"), ("/etc/ssl/one_api.pem", str(CERTIFICATE))
    )
    checked = subprocess.run([program, "-c", "-f", str(written)], capture_output=True, text=True, timeout=30)
    assert checked.returncode == 0, checked.stderr
    with proxy.running(program, "-db", "-f", str(written)):
        yield proxy


PROXIES: dict[str, Callable[[Proxy], contextlib.AbstractContextManager[Proxy]]] = {
    "nginx": nginx,
    "caddy": caddy,
    "haproxy": haproxy,
}
