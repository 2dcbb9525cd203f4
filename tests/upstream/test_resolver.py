"""Looking up the names of upstreams: bounded in time, one thread per name, failures remembered for a while."""

import errno
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from one_api.upstream.resolver import BoundedResolver


class Names:
    """A name service: knows "good", does not know others, and is silent about "slow"."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gate = threading.Event()

    def __call__(self, host: str, port: int, *_: Any) -> list[Any]:
        """What getaddrinfo would say."""
        self.asked.append(host)
        if host == "slow":
            self.gate.wait(30)
        if host == "bad":
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


@pytest.fixture
def names() -> Iterator[Names]:
    """A name service that speaks at the end, so that no thread is left."""
    service = Names()
    yield service
    service.gate.set()


async def test_a_name_is_found(names: Names) -> None:
    (found,) = await BoundedResolver(names).resolve("good", 443)

    assert (found["host"], found["port"], found["hostname"]) == ("127.0.0.1", 443, "good")


async def test_a_name_that_does_not_exist_is_not_asked_for_again_at_once(names: Names) -> None:
    resolver = BoundedResolver(names)

    for _ in range(3):
        with pytest.raises(OSError, match="unknown"):
            await resolver.resolve("bad", 443)

    assert names.asked == ["bad"]


async def test_silence_is_bounded_and_holds_nobody_else_up(names: Names) -> None:
    resolver = BoundedResolver(names, lookup_s=0.05)

    for _ in range(3):
        with pytest.raises(OSError, match="took longer"):
            await resolver.resolve("slow", 443)
    assert await resolver.resolve("good", 443)

    assert names.asked == ["slow", "good"], "one look-up is under way, however many wait for it"


@pytest.mark.parametrize("failing", ["slow", "again"])
async def test_while_the_name_server_fails_the_last_addresses_are_used(failing: str) -> None:
    gate, state = threading.Event(), "good"

    def look(host: str, port: int, *_: Any) -> list[Any]:
        if state == "slow":
            gate.wait(30)
        if state != "good":
            raise socket.gaierror(socket.EAI_NONAME if state == "gone" else socket.EAI_AGAIN, "no answer")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    resolver = BoundedResolver(look, lookup_s=5.0 if failing == "again" else 0.05)
    first = await resolver.resolve("host", 443)
    state = failing

    assert await resolver.resolve("host", 443) == first
    gate.set()


async def test_a_name_that_does_not_exist_any_more_is_not_used() -> None:
    answers: list[Any] = [[(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 443))]]

    def look(*_: Any) -> list[Any]:
        if answers:
            found: list[Any] = answers.pop()
            return found
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    resolver = BoundedResolver(look)
    await resolver.resolve("host", 443)

    with pytest.raises(OSError, match="unknown"):
        await resolver.resolve("host", 443)


async def test_what_is_no_name_is_an_error_like_others(names: Names) -> None:
    with pytest.raises(OSError, match="not a name"):
        await BoundedResolver(lambda *_: (_ for _ in ()).throw(UnicodeError("label empty"))).resolve("a..b", 443)


@pytest.fixture
def no_descriptors() -> Iterator[Callable[[], None]]:
    """A function after which this process can open nothing more; what is open stays so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_look_up_without_a_descriptor_says_so_and_is_not_remembered(
    names: Names, no_descriptors: Callable[[], None]
) -> None:
    resolver = BoundedResolver(names)
    no_descriptors()

    for _ in range(2):
        with pytest.raises(OSError, match="no file descriptor") as raised:
            await resolver.resolve("bad", 443)
        assert raised.value.errno == errno.EMFILE

    assert names.asked == ["bad", "bad"]
