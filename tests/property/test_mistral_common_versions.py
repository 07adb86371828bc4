"""The translation is taken by older releases of mistral-common too, not only by the installed one.

The Makefile installs them, without their dependencies, into .venv/mistral-common/VERSION; each judges a few hundred
drawn conversations, and the recorded requests of real agents, in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from devstral_proxy.mistral.profiles import ModelProfile, TokenizerVersion
from devstral_proxy.mistral.translator import Translator
from tests.conversations import Conversation, odd_conversations
from tests.recorded import chat_requests

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".venv" / "mistral-common"
# (release of mistral-common, the tokenizers that it knows)
RELEASES: list[tuple[str, tuple[TokenizerVersion, ...]]] = [
    ("1.8.6", ("v3", "v7", "v11", "v13")),
    ("1.10.0", ("v3", "v7", "v11", "v13", "v15")),
]
DRAWN = 250


def drawn() -> list[Conversation]:
    conversations: list[Conversation] = []

    @settings(max_examples=DRAWN, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None)
    @given(odd_conversations())
    def collect(conversation: Conversation) -> None:
        conversations.append(conversation)

    collect()
    return conversations


def verdicts(release: str, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What that release says of each translated request: `tokens`, or `refused`."""
    path = os.pathsep.join((str(HOME / release), str(ROOT)))
    run = subprocess.run(
        [sys.executable, "-m", "tests.oracle"],
        input="\n".join(json.dumps(job) for job in jobs),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
    )
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.parametrize(("release", "versions"), RELEASES, ids=[release for release, _ in RELEASES])
def test_an_older_mistral_common_takes_the_translation(release: str, versions: tuple[TokenizerVersion, ...]) -> None:
    if not (HOME / release).is_dir():
        pytest.fail(f"mistral-common {release} is not installed: run `make setup`")
    bodies = [conversation.body() for conversation in drawn()] + [request.body for request in chat_requests()]
    jobs: list[dict[str, Any]] = []
    given_bodies: list[dict[str, Any]] = []
    for number, body in enumerate(bodies):
        version = versions[number % len(versions)]
        sees = version not in ("v3", "v7") and number % 2 == 0
        thinks = version in ("v13", "v15") and number % 3 == 0
        profile = ModelProfile("drawn", version, images=sees, reasoning=thinks)
        jobs.append({"body": Translator(profile).request(body), "tokenizer": version, "images": sees})
        given_bodies.append(body)
    said = verdicts(release, jobs)
    assert len(said) == len(jobs)
    for job, verdict, body in zip(jobs, said, given_bodies, strict=True):
        assert "refused" not in verdict, (verdict, job["tokenizer"], body)


def test_without_the_translation_many_are_refused() -> None:
    """The judge can say no: the same requests as the agents sent them."""
    jobs = [
        {
            "body": {"messages": request.body["messages"], "tools": request.body.get("tools")},
            "tokenizer": "v13",
            "images": False,
        }
        for request in chat_requests()
    ]
    said = verdicts("1.8.6", jobs)
    assert sum("refused" in verdict for verdict in said) > len(said) / 4
