#!/usr/bin/env python3
"""The smoke test: does a proxy work at all? Seconds; `qa/run_tests.py` is the whole suite.

    python test_proxy.py                                  its own proxy in front of a simulated vLLM
    python test_proxy.py --base http://127.0.0.1:9000     a running proxy, with the vLLM behind it

Exit code 0 when all is well, 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from qa.client import CHAT, Api, Failed, error_of, expect
from qa.models import Served
from qa.stack import stack

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "workspace.read_file",  # no Mistral tokenizer takes the dot
        "description": "Read a file.",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    },
}


def _request(model: str, stream: bool) -> dict[str, Any]:
    """A turn as an agent asks it. The call is forced, so that a real model makes one too."""
    return {
        "model": model,
        "messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Read README.md."}],
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": TOOL["function"]["name"]}},
        "max_completion_tokens": 200,
        "stream": stream,
    }


def _health(api: Api, model: str) -> str:
    response = api.request("GET", "/health")
    expect(response.status_code == 200, f"status {response.status_code}")
    upstream = response.json()["upstream"]
    expect(upstream["reachable"], "the proxy runs, but vLLM does not answer")
    return f"the proxy runs, vLLM {upstream['version']} answers"


def _call(api: Api, model: str, stream: bool) -> str:
    answer = api.chat(_request(model, stream)).accepted()
    expect(len(answer.calls) == 1, f"{len(answer.calls)} calls, and finish reason {answer.finish}")
    function = answer.calls[0]["function"]
    expect(function["name"] == TOOL["function"]["name"], f"the tool's name came back as {function['name']!r}")
    return f"{function['name']} {json.dumps(function['arguments'])[:80]}"


def _whole(api: Api, model: str) -> str:
    return _call(api, model, stream=False)


def _streamed(api: Api, model: str) -> str:
    return _call(api, model, stream=True)


def _refused(api: Api, model: str) -> str:
    response = api.request("POST", CHAT, {"model": model, "messages": [{"role": "user", "content": "hi"}], "n": 0})
    expect(response.status_code == 400, f"status {response.status_code}")
    error = error_of(response)
    expect(error["param"] == "n", f"param is {error['param']!r}")
    return str(error["message"])


STEPS: dict[str, Callable[[Api, str], str]] = {
    "health": _health,
    "a tool call": _whole,
    "a streamed tool call": _streamed,
    "a bad request": _refused,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser(description="The smoke test of devstral-proxy.")
    parser.add_argument("--base", help="a running proxy; default: one that is started, with a simulated vLLM")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    failed = 0
    with ExitStack() as stop:
        try:
            own = None if options.base else stop.enter_context(stack())
            api = stop.enter_context(Api(own.base if own else options.base))
            model = Served("v13").name if own else str(api.request("GET", "/v1/models").json()["data"][0]["id"])
        except (Failed, RuntimeError, ValueError, KeyError, IndexError) as error:
            print(f"FAIL  cannot begin: {error}")
            return 1
        for name, step in STEPS.items():
            try:
                print(f"ok    {name}: {step(api, model)}", flush=True)
            except (Failed, KeyError, ValueError, TypeError) as error:
                failed += 1
                print(f"FAIL  {name}: {error}", flush=True)
    print(f"{'failed' if failed else 'all well'}, {time.perf_counter() - began:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
