"""Requests and tokens a minute for each key and model, counted in memory or, for several proxies, in Redis.

Windows and counters are those of the library `limits`: its sliding window counter, so that nobody gets twice the limit
around the turn of a minute. Tokens are known only after the answer: they are counted then, and requests are refused
while the window's are used up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, NoReturn

from devstral_proxy.config import ConfigError, Settings
from devstral_proxy.errors import Overloaded, RateLimited
from devstral_proxy.quotas import Quota

if TYPE_CHECKING:
    from coredis import ConnectionPool
    from limits.aio.storage import MemoryStorage, RedisStorage

_log = logging.getLogger("devstral_proxy.limits")

MINUTE: Final = 60
REDIS_TIMEOUT: Final = 0.5
"""Seconds that Redis may take for one request's counters."""
REDIS_PAUSE: Final = 2.0
"""Seconds after a failure in which Redis is not asked; then one request tries it again."""
WARN_EVERY: Final = 60.0
CONNECTIONS: Final = 16
KEY_PREFIX: Final = "devstral-proxy"
_NO_LIMIT: Final = 2**53

Headers = list[tuple[bytes, bytes]]


class Window(NamedTuple):
    """Counts of the last full window and of the running one, and the seconds until each is forgotten."""

    previous: int
    previous_ttl: float
    current: int
    current_ttl: float

    def used(self, length: int) -> int:
        """What counts now: the running window and the share of the last one that still lies in the last `length`."""
        return int(self.previous * self.previous_ttl / length) + self.current

    def free_in(self, limit: int, length: int) -> float:
        """Seconds until less than `limit` is used, if nothing is added."""
        if self.used(length) < limit:
            return 0.0
        if self.current < limit:
            return max(self.previous_ttl - (limit - self.current) * length / self.previous, 0.0)
        return max(self.current_ttl - length, 0.0) + length * (1 - limit / self.current)

    def reset_in(self) -> float:
        """Seconds until nothing is used."""
        return self.current_ttl if self.current else self.previous_ttl if self.previous else 0.0


class RateLimits:
    """The counters of one proxy. `failure` says what happens while the Redis behind them cannot be asked."""

    def __init__(
        self,
        settings: Settings,
        storage: MemoryStorage | RedisStorage,
        pool: ConnectionPool | None = None,
        length: int = MINUTE,
    ) -> None:
        self._quotas = settings.quotas
        self._storage = storage
        self._pool = pool
        self._length = length
        self._closed = settings.redis_failure == "closed"
        self._ask_from = 0.0
        self._warn_from = 0.0
        self._down = False
        self._loaded = False
        self._loading = asyncio.Lock()

    async def admit(self, key: str, model: str) -> Headers:
        """Count a request; the answer's `x-ratelimit-…` headers. `model` must come from a bounded set of names.

        Raises RateLimited with Retry-After, and Overloaded when Redis is gone and REDIS_FAILURE is `closed`.
        """
        quota = self._quotas.find(key, model)
        if not any(quota):
            return []
        if self._pool is None:
            return await self._counted(key, model, quota)
        if not self._may_ask():
            return self._without_redis()
        try:
            async with asyncio.timeout(REDIS_TIMEOUT):
                if not self._loaded:
                    await self._load()
                headers = await self._counted(key, model, quota)
        except RateLimited:
            self._is_up()
            raise
        except Exception as error:  # coredis raises its own, OSError, and what a broken connection made of its state
            self._is_gone(error)
            return self._without_redis()
        self._is_up()
        return headers

    async def spend(self, key: str, model: str, tokens: int) -> None:
        """Count the tokens of an answer, over the limit too. Never raises because of Redis."""
        if tokens <= 0 or not self._quotas.find(key, model).tpm:
            return
        name = _name("tokens", key, model)
        if self._pool is None:
            await self._storage.acquire_sliding_window_entry(name, _NO_LIMIT, self._length, tokens)
        elif self._may_ask():
            try:
                async with asyncio.timeout(REDIS_TIMEOUT):
                    await self._storage.acquire_sliding_window_entry(name, _NO_LIMIT, self._length, tokens)
            except Exception as error:
                self._is_gone(error)
            else:
                self._is_up()

    async def aclose(self) -> None:
        """Close the connections to Redis."""
        if self._pool is not None:
            self._pool.disconnect()

    async def _counted(self, key: str, model: str, quota: Quota) -> Headers:
        headers: Headers = []
        if quota.tpm:
            window = await self._window(_name("tokens", key, model))
            headers += self._headers(b"tokens", window, quota.tpm)
            if window.used(self._length) >= quota.tpm:
                self._refuse("tokens per min (TPM)", model, window, quota.tpm, headers)
        if quota.rpm:
            name = _name("requests", key, model)
            admitted = await self._storage.acquire_sliding_window_entry(name, quota.rpm, self._length, 1)
            window = await self._window(name)
            headers += self._headers(b"requests", window, quota.rpm)
            if not admitted:
                self._refuse("requests per min (RPM)", model, window, quota.rpm, headers)
        return headers

    async def _window(self, name: str) -> Window:
        return Window(*await self._storage.get_sliding_window(name, self._length))

    def _headers(self, what: bytes, window: Window, limit: int) -> Headers:
        left = max(limit - window.used(self._length), 0)
        return [
            (b"x-ratelimit-limit-" + what, b"%d" % limit),
            (b"x-ratelimit-remaining-" + what, b"%d" % left),
            (b"x-ratelimit-reset-" + what, duration(window.reset_in()).encode("ascii")),
        ]

    def _refuse(self, what: str, model: str, window: Window, limit: int, headers: Headers) -> NoReturn:
        wait = int(window.free_in(limit, self._length)) + 1
        error = RateLimited(
            f"Rate limit reached for {model or 'this model'} on {what}: Limit {limit}, "
            f"Used {window.used(self._length)}. Please try again in {wait}s."
        )
        error.headers = [(name.decode("ascii"), value.decode("ascii")) for name, value in headers]
        error.headers.append(("Retry-After", str(wait)))
        raise error

    async def _load(self) -> None:
        """Make the counting scripts known to Redis. Left to itself, coredis sends one that is unknown again, and where
        many do so at once some are counted twice."""
        async with self._loading:
            if not self._loaded:
                storage: Any = self._storage
                bridge = storage.bridge
                for script in (bridge.lua_sliding_window, bridge.lua_acquire_sliding_window):
                    await bridge.get_connection().script_load(script.script)
                self._loaded = True

    def _may_ask(self) -> bool:
        """Whether Redis is to be asked; while it is gone, one request in each REDIS_PAUSE finds out."""
        if not self._down:
            return True
        now = time.monotonic()
        if now < self._ask_from:
            return False
        self._ask_from = now + REDIS_PAUSE
        return True

    def _is_gone(self, error: Exception) -> None:
        now = time.monotonic()
        self._down = True
        self._loaded = False  # it may be another Redis that comes back
        self._ask_from = now + REDIS_PAUSE
        if now >= self._warn_from:
            self._warn_from = now + WARN_EVERY
            then = "requests that have limits are refused" if self._closed else "no rate limits are enforced"
            _log.warning("REDIS_URL does not answer (%s): %s", type(error).__name__, then)

    def _is_up(self) -> None:
        if self._down:
            self._down = False
            _log.info("Redis answers again: rate limits are enforced")

    def _without_redis(self) -> Headers:
        if not self._closed:
            return []
        error = Overloaded("the rate limits cannot be checked now; please try again later")
        error.headers.append(("Retry-After", str(int(REDIS_PAUSE) + 1)))
        raise error


def rate_limits(settings: Settings, length: int = MINUTE) -> RateLimits | None:
    """The counters that the settings ask for; None without any limit, and then nothing is imported.

    Raises ConfigError when REDIS_URL needs a package that is not there.
    """
    if not settings.quotas:
        return None
    if settings.redis_url is None:
        from limits.aio.storage import MemoryStorage

        return RateLimits(settings, MemoryStorage(), length=length)
    try:
        from coredis import BlockingConnectionPool
        from limits.aio.storage import RedisStorage
    except ImportError:
        raise ConfigError("REDIS_URL: needs the extra [redis]: pip install 'devstral-proxy[redis]'") from None
    pool = BlockingConnectionPool.from_url(
        settings.redis_url.get_secret_value(),
        max_connections=CONNECTIONS,
        timeout=REDIS_TIMEOUT,
        connect_timeout=REDIS_TIMEOUT,
        stream_timeout=REDIS_TIMEOUT,
    )
    # The library hands its options on to coredis, and types them as plain values.
    storage = RedisStorage("async+redis://", key_prefix=KEY_PREFIX, connection_pool=pool)  # type: ignore[arg-type]
    return RateLimits(settings, storage, pool, length)


def duration(seconds: float) -> str:
    """Seconds as OpenAI writes them in its headers: `6ms`, `59.7s`, `1m0s`, `2h0m0s`."""
    milliseconds = round(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    if not minutes:
        return f"{rest / 1000:g}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest / 1000:g}s" if hours else f"{minutes}m{rest / 1000:g}s"


def _name(what: Literal["requests", "tokens"], key: str, model: str) -> str:
    return f"{what}/{key}/{model}"
