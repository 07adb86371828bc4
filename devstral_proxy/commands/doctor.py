"""doctor: asks the configured vLLM what it is, and says what that means for agents."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import orjson

from devstral_proxy.config import Settings, load
from devstral_proxy.errors import UpstreamError
from devstral_proxy.mistral import refusals
from devstral_proxy.mistral.profiles import Profiles
from devstral_proxy.mistral.translator import Translator
from devstral_proxy.upstream.capabilities import for_version
from devstral_proxy.upstream.client import UpstreamClient
from devstral_proxy.upstream.models import Facts, Model, Upstream

OK, WARN, FAIL = "ok  ", "warn", "FAIL"
FIRST_BYTE = 60.0
"""Seconds for one question; a model that has not been asked for long may compile first."""
_SMALL_CONTEXT = 16384
_LIMIT = 4 * 1024 * 1024
_TOOL = {
    "type": "function",
    "function": {"name": "probe", "description": "Does nothing.", "parameters": {"type": "object", "properties": {}}},
}


def run(options: argparse.Namespace) -> int:
    """A line for each question; 1 when an answer means that agents will fail. Raises ConfigError."""
    return asyncio.run(_Doctor(load()).run())


class _Doctor:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = UpstreamClient(settings)
        self._failed = False

    def _say(self, mark: str, text: str) -> None:
        self._failed = self._failed or mark == FAIL
        print(f"{mark}  {text}", flush=True)

    async def run(self) -> int:
        try:
            await self._ask()
        finally:
            await self._client.aclose()
        return 1 if self._failed else 0

    async def _ask(self) -> None:
        settings = self._settings
        key = "with VLLM_API_KEY" if settings.vllm_api_key else "without a key"
        self._say(OK, f"settings: vLLM at {settings.vllm_base}, asked {key}")
        try:
            status, _ = await self._question("GET", "/v1/models")
        except UpstreamError as error:
            self._say(FAIL, f"reachable: {error.message}")
            return
        if status != 200:
            hint = "; set VLLM_API_KEY to vLLM's --api-key" if status == 401 else "; check VLLM_BASE"
            self._say(FAIL, f"reachable: /v1/models answers with status {status}{hint}")
            return
        self._say(OK, "reachable: /v1/models answers")
        health, _ = await self._question("GET", "/health")
        if health != 200:
            self._say(FAIL, f"health: vLLM's own /health says {health}: its engine is dead or still starting")
        facts = await Upstream(self._client, settings).facts()
        self._version(facts)
        if not facts.models:
            self._say(FAIL, "models: /v1/models lists none")
        profiles = Profiles(settings.profile_overrides)
        for model in facts.models.values():
            await self._model(model, profiles, facts)

    def _version(self, facts: Facts) -> None:
        row = for_version(facts.version)
        if facts.version is None:
            self._say(WARN, "version: /version tells none; asked as the client asks. Set VLLM_VERSION if it is older")
            return
        told = " (VLLM_VERSION)" if self._settings.vllm_version else ""
        asks = {"as-client": "as the client asks", "stream": "with streaming", "whole": "without streaming"}[row.ask]
        raw = ", for the model's own text" if row.raw_text else ""
        mark = WARN if row.raw_text or row.ask == "whole" else OK
        self._say(mark, f"version: {facts.version}{told}: {row.why}; asked {asks}{raw} when there are tools")

    async def _model(self, model: Model, profiles: Profiles, facts: Facts) -> None:
        profile = profiles.find(model.id, model.root)
        root = f" (root {model.root})" if model.root and model.root != model.id else ""
        has = [f"tokenizer {profile.tokenizer}"]
        has += [name for name in ("images", "reasoning", "strict") if getattr(profile, name)]
        unknown = profile.name == "strictest"
        hint = "; the name says nothing: name its profile in MODEL_PROFILES" if unknown else ""
        self._say(WARN if unknown else OK, f"model {model.id}{root}: profile {profile.name}, {', '.join(has)}{hint}")
        length = model.max_model_len
        if length is None:
            self._say(
                WARN, f"model {model.id}: /v1/models tells no max_model_len, so max_tokens cannot be fitted to it"
            )
        elif length < _SMALL_CONTEXT:
            self._say(
                WARN, f"model {model.id}: context of {length} tokens; agents' first requests alone take 5,000 to 25,000"
            )
        else:
            self._say(OK, f"model {model.id}: context of {length} tokens")
        request = {
            "model": model.id,
            "messages": [{"role": "user", "content": "Say hello."}],
            "tools": [_TOOL],
            "tool_choice": "auto",
            "max_tokens": 4,
        }
        await self._tools(model.id, Translator(profile).request(request))
        await self._tokens(model.id)

    async def _tools(self, model: str, request: dict[str, Any]) -> None:
        """Whether tools are taken at all (F41), asked without streaming so that a refusal is a status."""
        request = {key: value for key, value in request.items() if key != "stream_options"} | {"stream": False}
        try:
            status, body = await self._question("POST", "/v1/chat/completions", request)
        except UpstreamError as error:
            self._say(FAIL, f"model {model}: a request with a tool: {error.message}")
            return
        if status == 200:
            self._say(OK, f"model {model}: takes requests with tools and tool_choice auto")
        else:
            message = refusals.translated(status, body, None).message
            self._say(
                FAIL,
                f"model {model}: refuses a request with a tool, status {status}: {' '.join(message.split())[:400]}",
            )

    async def _tokens(self, model: str) -> None:
        """Whether token 9 is `[TOOL_CALLS]`, as in every Mistral tokenizer since v11. If not, another model is served,
        or vLLM runs without --tokenizer-mode mistral."""
        try:
            status, body = await self._question("POST", "/detokenize", {"model": model, "tokens": [9]})
            text = orjson.loads(body).get("prompt") if status == 200 else None
        except (UpstreamError, orjson.JSONDecodeError, AttributeError):
            return
        if isinstance(text, str) and text not in ("[TOOL_CALLS]", ""):
            self._say(WARN, f"model {model}: token 9 is not [TOOL_CALLS]; is vLLM run with --tokenizer-mode mistral?")

    async def _question(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        payload = None if body is None else orjson.dumps(body)
        async with self._client.open(method, path, payload, first_byte=FIRST_BYTE) as answer:
            return answer.status, await answer.read(_LIMIT)
