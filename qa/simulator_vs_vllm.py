#!/usr/bin/env python3
"""Compare the simulator with a real vLLM: refused or not, status, type, param, and the prompt's ids of each request.

    qa/simulator_vs_vllm.py --base http://127.0.0.1:8471 [--record FILE] [--only PART] [-v]
    qa/simulator_vs_vllm.py --recorded FILE [--note] [--only PART] [-v]

The real server must run a v13 tokenizer with a context of 4096. It is asked for one token a request. `--record` writes
what it answered into FILE (tests/data/vllm_verdicts.jsonl), for tests that have no server; `--recorded` compares with
that. Refusals follow the version of mistral-common: run this with the one that the server had (1.12.0 with vLLM 0.32.0,
1.8.6 with 0.12.0). With another, `--note` writes down in FILE which verdicts it changes.

Three requests of the table make vLLM 0.12.0 generate by a grammar, which kills it on a CPU unless it runs with
`--dtype float32`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from devstral_proxy.simulator import SimulatorOptions, create_simulator
from devstral_proxy.simulator.engine import is_old
from qa.vllm_cases import Case, cases

# Where the stand-in differs on purpose: a case, and why.
DELIBERATE: dict[str, str] = {}
# What a test compares, and the answer's beginning for a reader.
Answer = tuple[dict[str, Any], str]


def digest(ids: list[int]) -> str:
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()[:16]


def verdict(status: int, content: bytes) -> dict[str, Any]:
    """What a test compares of an answer."""
    if content.startswith(b"data: "):
        events = [line[6:] for line in content.split(b"\n") if line.startswith(b"data: {")]
        body = json.loads(events[0])
    else:
        try:
            body = json.loads(content)
        except ValueError:
            return {"status": status, "body": content[:60].decode(errors="replace")}
    if "error" in body or status != 200:
        error = body.get("error")
        told = {"type": error.get("type"), "param": error.get("param")} if isinstance(error, dict) else {"body": body}
        return {"status": status, **told}
    ids = body.get("prompt_token_ids") or []
    return {"status": status, "count": len(ids), "ids": digest(ids)}


async def ask(client: httpx.AsyncClient, case: Case) -> Answer:
    response = await client.post("/v1/chat/completions", content=case.content, headers=case.headers)
    return verdict(response.status_code, response.content), response.text[:400]


async def verdicts_of(transport: httpx.AsyncBaseTransport | None, base: str, asked: list[Case]) -> list[Answer]:
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(transport=transport, base_url=base, timeout=120, limits=limits) as client:
        return [await ask(client, case) for case in asked]


def simulated(version: str, asked: list[Case]) -> list[Answer]:
    app = create_simulator(SimulatorOptions(version=version, tokenizer="v13", max_model_len=4096))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return asyncio.run(verdicts_of(transport, "http://simulator", asked))


def differing(asked: list[Case], expected: list[Answer], actual: list[Answer], verbose: bool) -> set[str]:
    """Tell the differences; the names of the cases that differ, but for the deliberate ones."""
    names = set()
    for case, (real, told), (ours, said) in zip(asked, expected, actual, strict=True):
        if real == ours:
            if verbose:
                print(f"ok    {case.name}: {real}")
        elif case.name in DELIBERATE:
            print(f"meant {case.name}: {DELIBERATE[case.name]}")
        else:
            names.add(case.name)
            print(f"DIFF  {case.name}\n  real {real} {told}\n  ours {ours} {said}")
    return names


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    return {row["name"]: row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())}


def write(path: Path, rows: dict[str, dict[str, Any]]) -> None:
    """A line a case, in the order of the table."""
    lines = []
    for case in cases():
        row = rows.get(case.name, {})
        made = {"name": case.name, "content": case.content.decode(), "headers": case.headers}
        lines.append(json.dumps(made | {key: row[key] for key in ("new", "old", "changed") if key in row}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def against_server(base: str, asked: list[Case], file: Path | None, verbose: bool) -> int:
    version: str = httpx.get(f"{base}/version").json()["version"]
    expected = asyncio.run(verdicts_of(None, base, asked))
    different = differing(asked, expected, simulated(version, asked), verbose)
    if file:
        rows = rows_of(file)
        for case, (real, _) in zip(asked, expected, strict=True):
            rows.setdefault(case.name, {})["old" if is_old(version) else "new"] = real
        write(file, rows)
    print(f"vLLM {version}: {len(asked) - len(different)} of {len(asked)} requests agree")
    return len(different)


def against_recorded(file: Path, asked: list[Case], note: bool, verbose: bool) -> int:
    rows, count = rows_of(file), 0
    installed = importlib.metadata.version("mistral-common")
    for side, version in (("new", "0.32.0"), ("old", "0.12.0")):
        known = [case for case in asked if side in rows.get(case.name, {})]
        expected = [(rows[case.name][side], "") for case in known]
        different = differing(known, expected, simulated(version, known), verbose)
        count += len(different)
        print(
            f"mistral-common {installed}, vLLM {version}: {len(known) - len(different)} of {len(known)} requests agree"
        )
        for case in known if note else ():
            changed = rows[case.name].setdefault("changed", {})
            versions = set(changed.get(side, ())) - {installed} | ({installed} if case.name in different else set())
            changed[side] = sorted(versions, key=lambda text: [int(part) for part in text.split(".")])
    if note:
        write(file, rows)
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--recorded", type=Path)
    parser.add_argument("--note", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("-v", "--verbose", action="store_true")
    options = parser.parse_args()
    asked = [case for case in cases() if options.only in case.name]
    if options.recorded:
        count = against_recorded(options.recorded, asked, options.note, options.verbose)
    elif options.base:
        count = against_server(options.base, asked, options.record, options.verbose)
    else:
        parser.error("--base or --recorded is needed")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
