"""The regression suite itself: that it passes with a proxy, fails without one, and says which is which."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

import test_proxy
from qa.client import Api, Failed, Skipped
from qa.golden_requests import CASES
from qa.run_tests import CHECKS, main, run
from qa.stack import ROOT, Stack, stack
from qa.suites.check import Check, Where, World

NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody serves HTTP there


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    with stack() as found:
        yield found


def test_with_its_own_proxy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "golden/F0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cases = [case for case in CASES if case.name.startswith("F0")]
    assert lines[-1] == f"{2 * len(cases)} passed, 0 failed"
    assert lines[0].startswith("PASS golden/F01 streamed: ")
    assert lines[0].endswith(" ms")


def test_with_a_running_proxy(running: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(
        [
            "--base",
            running.base + "/v1/",
            "--model",
            "case-v13",
            "--only",
            "golden/F0|endpoint|refused|failure|responses|messages|operations",
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    assert code == 0, "\n".join(line for line in lines if not line.startswith("PASS"))
    skipped = [line for line in lines if line.startswith("SKIP ")]
    assert any("failure/upstream down" in line for line in skipped)
    assert lines[-1].endswith(f"0 failed, {len(skipped)} skipped")


def test_with_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    with stack(key="sk-of-the-test") as running:
        arguments = ["--base", running.base, "--model", "case-v13", "--only", "keys|operations/(live|ready|metrics)$"]
        assert main([*arguments, "--key", "sk-of-the-test"]) == 0
        assert capsys.readouterr().out.splitlines()[-1].endswith(" passed, 0 failed")
        assert main(arguments) == 2
        assert "answers with status 401" in capsys.readouterr().err


@pytest.mark.parametrize("suite", ["golden", "refused", "endpoint", "failure", "responses", "messages", "operations"])
def test_without_a_proxy(suite: str, running: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    """The upstream itself in the proxy's place: every suite has to see that."""
    assert running.upstream is not None
    assert main(["--base", running.upstream, "--model", "case-v13", "--only", suite + "/"]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert len(failed) >= 2


def test_verdicts(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(world: World) -> None:
        raise Failed("the reason\nof it " + "x" * 300)

    def skips(world: World) -> None:
        raise Skipped("not here")

    def another_shape(world: World) -> None:
        raise KeyError("choices")

    def passes(world: World) -> None:
        pass

    checks = [
        Check(name, "says", test)
        for name, test in (("a", passes), ("b", fails), ("c", skips), ("d", another_shape), ("e", passes))
    ]
    with Api(NOWHERE) as api:
        world = World(api, "m")

        def worlds(where: Where) -> World:
            return world

        assert run(checks, worlds) == 1
        lines = capsys.readouterr().out.splitlines()
        assert [line[:6] for line in lines if line[0] != " "] == [
            "PASS a",
            "FAIL b",
            "SKIP c",
            "FAIL d",
            "PASS e",
            "2 pass",
        ]
        assert lines[-1] == "2 passed, 2 failed, 1 skipped"
        assert lines[2].startswith("     the reason of it xxx")
        assert lines[2].endswith("…")
        assert run(checks[2:3], worlds) == 0
        assert run(checks[1:2], worlds, verbose=True) == 1
        assert "x" * 300 in capsys.readouterr().out


def test_a_wrong_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "no such check"]) == 2
    assert "no such check" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_:
        main(["--only", "("])
    assert exit_.value.code == 2


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--base", NOWHERE]) == 2
    assert "cannot begin: no answer from" in capsys.readouterr().err
    assert test_proxy.main(["--base", NOWHERE]) == 1
    assert "cannot begin" in capsys.readouterr().out


def test_names() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    assert {f"golden/{case.name} {way}" for case in CASES for way in ("streamed", "whole")} <= set(names)


def test_smoke() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "test_proxy.py")], capture_output=True, text=True, timeout=120, cwd="/", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[:-1]] == [f"ok    {name}" for name in test_proxy.STEPS]
    assert done.stderr == ""


def test_smoke_without_a_proxy(running: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    assert running.upstream is not None
    assert test_proxy.main(["--base", running.upstream]) == 1
    assert "FAIL  a tool call" in capsys.readouterr().out
