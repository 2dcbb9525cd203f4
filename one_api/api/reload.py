"""A changed configuration is taken over without a cut: loaded, checked, built beside the old one, then swapped in."""

import asyncio
import gc
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from one_api.api.snapshot import Snapshot
from one_api.config import Config, ConfigError, Loaded
from one_api.dialects.json import JSONObject
from one_api.models.adapters.base import BaseModelAdapter
from one_api.observability.log import audit
from one_api.serving.kept_texts import KeptTexts
from one_api.serving.tasks import stop
from one_api.settings.changes import applicable, changed_paths, digest_of
from one_api.settings.validation import Problem

logger = logging.getLogger(__name__)

#: How often a process looks whether a reload was asked for, in seconds.
_LOOK_S = 1.0
#: How often it looks whether the last request of an old configuration has ended, in seconds.
_POLL_S = 0.05
#: How long a thread that computes may hold up the loop meanwhile, in seconds.
_SWITCH_S = 0.0005
#: How often files that change while they are read are read again.
_MAX_LOADS = 5
#: Changed places in one line of the log.
_MAX_PATHS = 100

#: Builds what serves a configuration, in a thread: (configuration, settings that need a restart, the one before).
Build: TypeAlias = Callable[[Config, list[str], Snapshot], Snapshot]
#: By path: inode, time of the last change in nanoseconds, size in bytes; None is no such file.
Fingerprint: TypeAlias = dict[str, tuple[int, int, int] | None]


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a process has its configuration from: what it started with, and how to load it anew."""

    #: What the process was started with: some settings stay as they are there.
    start: Config
    load: Callable[[], Loaded]
    build: Build
    #: The texts of the files at the start of the master, and those of what was applied last.
    start_texts: dict[str, str | None] = field(default_factory=dict)
    texts: dict[str, str | None] = field(default_factory=dict)


class Reload:
    """Holds the snapshot that new requests are served with, and replaces it when that is asked for.

    One load runs at a time; when another one is asked for meanwhile, one more follows. What goes wrong before the swap
    changes nothing.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        sources: Sources | None,
        kept: KeptTexts,
        show: Callable[[Config], None],
        on_swap: Callable[[], None],
    ) -> None:
        """Without ``sources`` the configuration was made in code, and stays.

        ``show`` is called, in a thread, with each new one before it is used, and ``on_swap`` when it is.
        """
        self.snapshot = snapshot
        self._show = show
        self._on_swap = on_swap
        self._sources = sources
        self._kept = kept
        self._seen_requests = kept.reload_requests
        #: Snapshots that still serve requests, the current one left out.
        self._old: list[Snapshot] = []
        self._again: str | None = None
        self._loading: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        #: What was applied last was read from: the texts, and what shows that a file has changed.
        self._texts = sources.texts if sources else {}
        self._files = _fingerprint(self._texts)
        self._last: JSONObject = {}
        #: When what is in use was loaded, in Unix seconds.
        self.loaded_at = time.time()

    @property
    def was_refused(self) -> bool:
        """Return whether the last reload was refused."""
        return self._last.get("result") == "refused"

    @property
    def snapshots(self) -> list[Snapshot]:
        """Return all that serve requests, the current one first."""
        return [self.snapshot, *self._old]

    # Asked for

    def begin_once(self, by: str) -> None:
        """Reload, unless that was begun for the same request already; ``by`` names what asked, for the log."""
        if not self._kept.is_shared or self._seen_requests != self._kept.reload_requests:
            self.begin(by)

    def begin(self, by: str) -> None:
        """Reload, on the running loop."""
        self._seen_requests = self._kept.reload_requests
        self._again = by
        if self._loading is None:
            self._loading = asyncio.get_running_loop().create_task(self._keep_loading())

    def begin_everywhere(self, by: str) -> None:
        """Reload here, and in every other process of the same master, also in one that is just starting."""
        if self._kept.is_shared:
            self._kept.request_reload()
        self.begin(by)

    async def check(self) -> JSONObject:
        """Return what a load would come to, without one; raises ConfigError."""
        config, restart_needed, _ = await asyncio.to_thread(self._load)
        return {"digest": digest_of(config), "restart_needed": restart_needed}

    def status(self) -> JSONObject:
        """Return what is in use, and what came of the last request to load anew."""
        current = self.snapshot
        return {"digest": current.digest, "restart_needed": list(current.restart_needed), "last_reload": self._last}

    # Done

    async def _keep_loading(self) -> None:
        try:
            while (by := self._again) is not None:
                self._again = None
                with _giving_way():
                    await self._load_once(by)
        finally:
            self._loading = None

    async def _load_once(self, by: str) -> None:
        old = self.snapshot
        try:
            config, restart_needed, texts = await asyncio.to_thread(self._load)
            digest = await asyncio.to_thread(digest_of, config)
            if (digest, tuple(restart_needed)) == (old.digest, old.restart_needed):
                await asyncio.to_thread(self._keep, texts)
                self._note("unchanged", by, old.digest)
                if self._is_first(by, old.digest):
                    logger.info(
                        "configuration reload by %s: nothing changed, digest %s",
                        by,
                        digest[:12],
                        extra=audit("config", by=by, result="unchanged", digest=digest),
                    )
                return
            new = await self._built(config, restart_needed, old)
        except ConfigError as error:
            self._refused(by, [str(problem) for problem in error.problems])
            return
        except Exception as error:  # whatever it is, the old configuration goes on
            logger.exception("configuration reload by %s failed", by)
            self._refused(by, [f"{type(error).__name__}: {error}"])
            return
        await asyncio.to_thread(self._show, new.config)
        await self._swap(old, new)
        await asyncio.to_thread(self._keep, texts)
        self._note("applied", by, new.digest)
        if self._is_first(by, old.digest, new.digest):
            await asyncio.to_thread(_log_changes, by, old, new)

    def _load(self) -> tuple[Config, list[str], dict[str, str | None]]:
        """Load, in a thread; returns the configuration, which settings need a restart, and the texts of its files."""
        if self._sources is None:
            raise RuntimeError("this gateway was built from a configuration in code, which cannot be loaded anew")
        for _ in range(_MAX_LOADS):
            self._files = before = _fingerprint(self._files)
            loaded = self._sources.load()
            self._files = _fingerprint(loaded.texts)
            if before == self._files:
                break  # nothing was written meanwhile
        self._check_emptied(loaded)
        return *applicable(self._sources.start, loaded.config), loaded.texts

    def _check_emptied(self, loaded: Loaded) -> None:
        """Refuse a file that holds nothing any more: it is being written, or was emptied by a slip."""
        emptied = [path for path, text in loaded.texts.items() if _is_nothing(text) and self._texts.get(path)]
        if emptied:
            raise ConfigError(tuple(Problem(path, "is empty", "Fill it, or remove it") for path in emptied))

    async def _built(self, config: Config, restart_needed: list[str], old: Snapshot) -> Snapshot:
        """Build what is new and start it."""
        assert self._sources is not None  # noqa: S101 - there is nothing to load without
        new = await asyncio.to_thread(self._sources.build, config, restart_needed, old)
        try:
            await new.registry.wait_discovered()
        except BaseException:
            await new.registry.let_go(self._unshared(new, [old, *self._old]))
            raise
        return new

    async def _swap(self, old: Snapshot, new: Snapshot) -> None:
        """Serve new requests with ``new``, and let go of what only ``old`` has once its requests have ended."""
        new.registry.routes.take_over(old.registry.routes)
        self.snapshot = new
        self._old.append(old)
        self._on_swap()
        task = asyncio.get_running_loop().create_task(self._let_go(old))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await new.limits.start()
        for adapter in self._unshared(old, [new]):
            await adapter.retire()

    async def _let_go(self, old: Snapshot) -> None:
        deadline = time.monotonic() + old.config.server.drain_s
        while old.requests and time.monotonic() < deadline:  # noqa: ASYNC110 - requests may end in threads
            await asyncio.sleep(_POLL_S)
        self._old.remove(old)
        await old.registry.let_go(self._unshared(old, [self.snapshot, *self._old]))

    @staticmethod
    def _unshared(one: Snapshot, others: list[Snapshot]) -> list[BaseModelAdapter]:
        """Return the adapters that none of the others has."""
        used = {id(adapter) for each in others for adapter in each.registry.adapters.values()}
        return [adapter for adapter in one.registry.adapters.values() if id(adapter) not in used]

    def _keep(self, texts: dict[str, str | None]) -> None:
        self._texts = texts
        if self._sources is not None:
            self._kept.apply(self._sources.start_texts, texts)

    def _refused(self, by: str, problems: list[str]) -> None:
        if self._is_first(by, self.snapshot.digest, *problems):
            logger.error(
                "configuration reload by %s was refused, the one before goes on, digest %s: %s",
                by,
                self.snapshot.digest[:12],
                "; ".join(problems),
                extra=audit("config", by=by, result="refused", digest=self.snapshot.digest, problems=problems),
            )
        self._note("refused", by, self.snapshot.digest, problems)

    def _is_first(self, *result: str) -> bool:
        """Return whether this process is to log the result: one line is enough where all come to the same."""
        return self._kept.is_first(f"{result} {self._files}")

    def _note(self, result: str, by: str, digest: str, problems: list[str] | None = None) -> None:
        self._last = {"result": result, "by": by, "time": round(time.time(), 3), "digest": digest}
        if result != "refused":
            self.loaded_at = self._last["time"]
        if problems:
            self._last["problems"] = problems

    # Life

    def start(self) -> None:
        """Begin to look whether a reload is asked for; does nothing where there is nothing to load."""
        if self._sources is not None and not self._tasks:
            self._tasks.add(asyncio.get_running_loop().create_task(self._keep_looking()))

    async def _keep_looking(self) -> None:
        looked_at = time.monotonic()
        while True:
            watch_s = self.snapshot.config.reload.watch_s
            await asyncio.sleep(min(_LOOK_S, watch_s or _LOOK_S))
            self.begin_missed()
            if watch_s and time.monotonic() - looked_at >= watch_s and self._loading is None:
                looked_at = time.monotonic()
                if await asyncio.to_thread(_fingerprint, self._files) != self._files:
                    self.begin("watch")

    def begin_missed(self) -> None:
        """Reload if that was asked for and no signal has come: this process was just starting."""
        if self._kept.is_shared and self._seen_requests != self._kept.reload_requests:
            self.begin("signal")

    async def aclose(self) -> None:
        """Stop, and close what old snapshots still have."""
        await stop(self._loading, *self._tasks)
        for old in list(self._old):
            self._old.remove(old)
            await old.registry.let_go(self._unshared(old, [self.snapshot, *self._old]))


@contextmanager
def _giving_way() -> Iterator[None]:
    """Let the loop interrupt threads that compute soon, and do not collect garbage meanwhile.

    A collection would go through all objects of a large configuration, and stop everything for long.
    """
    switch_s, collects = sys.getswitchinterval(), gc.isenabled()
    sys.setswitchinterval(_SWITCH_S)
    gc.disable()
    try:
        yield
    finally:
        sys.setswitchinterval(switch_s)
        if collects:
            gc.enable()


def _is_nothing(text: str | None) -> bool:
    """Return whether a file's text holds no setting; None is a file that is not there."""
    return text is not None and text.removeprefix("---").strip() in ("", "null", "~")


def _log_changes(by: str, old: Snapshot, new: Snapshot) -> None:
    """Log a change and its cause: places of settings, never values."""
    paths = changed_paths(old.config, new.config)
    more = f" and {len(paths) - _MAX_PATHS} more" if len(paths) > _MAX_PATHS else ""
    logger.info(
        "configuration reloaded by %s: digest %s to %s, changed: %s%s",
        by,
        old.digest[:12],
        new.digest[:12],
        ", ".join(paths[:_MAX_PATHS]) or "nothing",
        more,
        extra=audit(
            "config", by=by, result="applied", digest=new.digest, old_digest=old.digest, changed=paths[:_MAX_PATHS]
        ),
    )
    if new.restart_needed:
        logger.warning("these settings were changed and need a restart: %s", ", ".join(new.restart_needed))


def _fingerprint(paths: Iterable[str]) -> Fingerprint:
    """Return what shows that one of the files has changed; links are followed."""
    found: Fingerprint = {}
    for path in paths:
        try:
            status = Path(path).stat()
            found[path] = (status.st_ino, status.st_mtime_ns, status.st_size)
        except OSError:
            found[path] = None
    return found
