"""mistral-common as the judge of translations: its own conversion, validator, normalizer and tokenizer.

Run as a program it judges for another mistral-common than the one installed: PYTHONPATH names a folder that holds that
one, requests come in as JSON lines on standard input, verdicts go out.
"""

from __future__ import annotations

import copy
import json
import sys
import warnings
from typing import Any, NamedTuple

from devstral_proxy.mistral.profiles import TokenizerVersion


class Prompt(NamedTuple):
    """What the model reads: token ids, and the text with control tokens spelled out."""

    ids: list[int]
    text: str


def prompt(body: dict[str, Any], tokenizer: TokenizerVersion, images: bool = False) -> Prompt:
    """The prompt of a translated request. Raises whatever mistral-common raises for one that it refuses."""
    from mistral_common.protocol.instruct.request import ChatCompletionRequest

    from devstral_proxy.simulator.tokenizers import load

    loaded = load(tokenizer, images)
    extra: dict[str, Any] = {}
    if tokenizer == "v15" and "reasoning_effort" in body:
        extra["reasoning_effort"] = body["reasoning_effort"]
    converted = ChatCompletionRequest.from_openai(
        messages=copy.deepcopy(body["messages"]),
        tools=copy.deepcopy(body.get("tools")),
        continue_final_message=bool(body.get("continue_final_message")),
        model="m",
        **extra,
    )
    ids = loaded.mistral.encode_chat_completion(converted).tokens
    return Prompt(ids, loaded.text(ids))


def _judge(line: str) -> dict[str, Any]:
    job = json.loads(line)
    try:
        ids = prompt(job["body"], job["tokenizer"], job["images"]).ids
    except Exception as error:  # whatever it raises is the verdict
        return {"refused": f"{type(error).__name__}: {error}"[:500]}
    return {"tokens": len(ids)}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for request in sys.stdin:
        sys.stdout.write(json.dumps(_judge(request)) + "\n")
