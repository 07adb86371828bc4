"""Whether a real vLLM takes what the proxy sends, and reads all that the client said.

    python qa/vllm_accepts.py --vllm http://127.0.0.1:8000 [--model NAME] [--tokenizer v13] [--drawn 100]

Sends the recorded requests of real agents, and drawn conversations with every oddity, translated for that server. Each
has to be accepted by /v1/chat/completions (one token is asked for), and every mark in it has to stand once in the
prompt that the server says it read. Requests that do not fit into the server's context are counted apart.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from hypothesis import HealthCheck, Phase, given, settings

sys.path.insert(0, str(Path(__file__).parents[1]))

from devstral_proxy.mistral.profiles import ModelProfile, TokenizerVersion
from devstral_proxy.mistral.refusals import OVERFLOW, translated
from devstral_proxy.mistral.translator import Translator
from devstral_proxy.upstream.capabilities import for_version
from tests.conversations import MARK, Conversation, odd_conversations
from tests.recorded import chat_requests


def requests(drawn: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, body) of every request that is sent."""
    yield from ((recorded.name, recorded.body) for recorded in chat_requests())
    conversations: list[Conversation] = []

    @settings(max_examples=drawn, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None)
    @given(odd_conversations())
    def collect(conversation: Conversation) -> None:
        conversations.append(conversation)

    collect()
    yield from ((f"drawn-{number}", conversation.body()) for number, conversation in enumerate(conversations))


class Server:
    """The vLLM under test."""

    def __init__(self, base: str, model: str | None, tokenizer: TokenizerVersion) -> None:
        self.http = httpx.Client(base_url=base, timeout=120)
        self.version: str = self.http.get("/version").json()["version"]
        served = self.http.get("/v1/models").json()["data"][0]
        self.model: str = model or served["id"]
        self.length: int = served["max_model_len"]
        self.profile = ModelProfile("under-test", tokenizer)

    def translated(self, body: dict[str, Any]) -> dict[str, Any]:
        translator = Translator(self.profile, capabilities=for_version(self.version), max_model_len=self.length)
        sent = translator.request({**body, "model": self.model})
        # Only the prompt is of interest; a grammar would be compiled for nothing.
        return {key: value for key, value in sent.items() if key not in ("stream", "stream_options", "response_format")}

    def verdict(self, body: dict[str, Any]) -> str:
        """`accepted`, `too long`, or what is wrong."""
        sent = {**self.translated(body), "max_tokens": 1, "return_token_ids": True}
        answer = self.http.post("/v1/chat/completions", json=sent)
        if answer.status_code != 200:
            error = translated(answer.status_code, answer.content, self.length).body["error"]
            return "too long" if error["code"] == OVERFLOW else f"refused: {answer.text[:300]}"
        ids = answer.json()["prompt_token_ids"]
        prompt = self.http.post("/detokenize", json={"model": self.model, "tokens": ids}).json()["prompt"]
        said, read = (MARK.findall(text) for text in (json.dumps([sent["messages"], sent.get("tools", [])]), prompt))
        return "accepted" if sorted(said) == sorted(read) else f"lost or doubled: {Counter(said) - Counter(read)}"


def main() -> int:
    """Exit code 1 when anything was refused or lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", required=True)
    parser.add_argument("--model")
    parser.add_argument("--tokenizer", default="v13", choices=["v3", "v7", "v11", "v13", "v15"])
    parser.add_argument("--drawn", type=int, default=100)
    options = parser.parse_args()
    server = Server(options.vllm, options.model, options.tokenizer)
    counts: Counter[str] = Counter()
    for name, body in requests(options.drawn):
        verdict = server.verdict(body)
        kind = verdict if verdict in ("accepted", "too long") else "wrong"
        counts[kind] += 1
        if kind == "wrong":
            print(f"{name}: {verdict}")
    print(
        f"vLLM {server.version}: {counts['accepted']} accepted, {counts['too long']} too long, {counts['wrong']} wrong"
    )
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
