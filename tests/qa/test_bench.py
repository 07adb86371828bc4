"""The measurement's own parts: statistics, parsing, goals, and the page that is made of them. Nothing is timed here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstral_proxy.mistral.profiles import Profiles
from devstral_proxy.mistral.translator import Translator
from qa.bench import bodies, memory, process, report, reuse, stacks
from qa.bench.__main__ import Session, options
from qa.bench.goals import GOALS, Goal, with_memory
from qa.bench.lab import HERE
from qa.bench.measure import Record
from qa.bench.plan import OVERLOAD, PLANS, TESTS
from qa.bench.plot import plot
from qa.bench.summary import ADDED, PEERS, ROWS, Row, aligned, figure, figures_of, ratio, ratios, summary, table
from qa.bench.targets import SAYS, TARGETS

RUNS = {
    "direct": {"c1 p50 us": [20.0, 22.0, 30.0], "s200 hop p50 us": [30.0]},
    "nginx": {"c64 req/s": [40_000.0], "c64 failed": [0.0]},
    "project": {
        "c1 p50 us": [120.0, 100.0, 400.0],
        "c64 req/s": [8_000.0, 10_000.0],
        "c64 failed": [0.0, 2.0],
        "drop300 left after 2 s": [0.0, 3.0],
        "drop300 failed": [1.0],
    },
}

# ---------------------------------------------------------------- statistics


def test_medians_sums_and_worst() -> None:
    figures = figures_of(RUNS["project"])
    assert figures["c1 p50 us"] == 120
    assert figures["c64 req/s"] == 9_000
    assert figures["c64 failed"] == 2, "failures are summed, never averaged away"
    assert figures["drop300 left after 2 s"] == 3
    assert figures["failed"] == 3


def test_added_is_the_difference_to_no_proxy() -> None:
    figures = summary(RUNS)
    assert figures["project"]["c1 added p50 us"] == 98
    assert not any(name in figures["direct"] for name in ADDED)
    assert "s200 added p50 us" not in figures["project"], "the project has no such figure"
    assert not any(name in summary({"project": RUNS["project"]})["project"] for name in ADDED)


def test_ratio() -> None:
    figures = summary(RUNS)
    assert ratio(figures, Row("c64 req/s", ""), "nginx") == 9_000 / 40_000
    assert ratio(figures, Row("c64 req/s", ""), "litellm") is None
    assert ratio(figures, Row("c64 req/s", "", ratio=False), "nginx") is None
    assert ratio({"project": {"x": 1.0}, "nginx": {"x": 0.0}}, Row("x", ""), "nginx") is None


def test_tables_show_what_there_is() -> None:
    figures = summary(RUNS)
    head, *rows = table(figures)
    assert head == ["", "direct", "nginx", "project"]
    assert [row[0] for row in rows if "requests/s" in row[0]] == ["1 KB, 64 connections: requests/s"]
    assert ["1 KB, 64 connections: requests/s", "–", "40,000", "9,000"] in rows
    assert ratios(figures) == [["project /", "nginx"], ["1 KB, 64 connections: requests/s", "0.23"]]
    assert ratios({"nginx": {}}) == []
    assert len({len(line) for line in aligned(table(figures)).splitlines()}) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (0.256, "0.26"), (12.34, "12.3"), (123.4, "123"), (7.0, "7"), (44_123.4, "44,123")],
)
def test_figure(value: float | None, text: str) -> None:
    assert figure(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e9, max_value=1e9))
def test_a_figure_is_near_its_value(value: float) -> None:
    assert float(figure(value).replace(",", "")) == pytest.approx(value, rel=0.05, abs=0.006)


def test_a_record_keeps_what_was_counted() -> None:
    record = Record()
    record.keep(a=1, b=None, c=-1.0)
    record.keep(a=2)
    assert record.runs == {"a": [1, 2]}


# ---------------------------------------------------------------- memory


def test_growth_is_counted_from_the_first_tenth_on() -> None:
    samples = [(0, 45.0), (100, 60.0), (500, 61.0), (1000, 62.0)]
    found = memory.growth(samples)
    assert (found["idle"], found["warm"], found["end"], found["growth"]) == (45, 60, 62, 2)
    assert found["slope"] == pytest.approx(2000)


@given(st.floats(-5, 5), st.integers(2, 30))
def test_slope_is_that_of_a_line(rise: float, count: int) -> None:
    assert memory.slope([(n * 1000, 50 + rise * n / 1000) for n in range(count)]) == pytest.approx(rise, abs=1e-6)


def test_one_sample_has_no_slope() -> None:
    assert memory.slope([(10, 1.0)]) == 0


def test_the_mix_is_whole() -> None:
    assert sum(share for share, _, _ in memory.MIX) == pytest.approx(1)


# ---------------------------------------------------------------- what the kernel tells


def test_field_of_proc() -> None:
    text = "Name:\tpython\nVmHWM:\t   81234 kB\nVmRSS:\t   70000 kB\nRssAnon:\t 1 kB\n"
    assert process.field_kb(text, "VmRSS") == 70_000
    assert process.field_kb(text, "Rss") == 0
    assert process.field_kb("Rss:     100 kB\nPss:     50 kB\nPss_Dirty: 7 kB\n", "Pss") == 50


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="needs Linux's /proc")
def test_this_process() -> None:
    assert os.getpid() in process.tree(os.getpid())
    assert process.memory_mb(os.getpid(), "VmRSS") > 1
    assert process.cpu_us(os.getpid()) > 0


def test_the_environment_of_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "https_proxy", "VLLM_BASE", "PYTHONPATH"):
        monkeypatch.setenv(name, "x")
    given_on = process.clean_environment()
    assert not {"HTTP_PROXY", "https_proxy", "VLLM_BASE", "PYTHONPATH"} & given_on.keys()
    assert "PATH" in given_on


# ---------------------------------------------------------------- sampled stacks

MAIN = "thread (7080): MainThread;run (devstral_proxy/commands/serve.py:63);run_forever (loop.c)"
STACKS = {
    "Feed._run (devstral_proxy/server/feed.py:99)": "devstral_proxy/server",
    "_loads (devstral_proxy/server/body.py:83);loads (orjson/orjson.cpython-311.so);0x7f (libc.so.6)": "orjson (JSON)",
    "C.write (devstral_proxy/upstream/x.py:1);UVStream__try_write (loop.c:9);write (libc.so.6)": "system calls",
    "f (starlette/routing.py:1);T (_asynciomodule.c);gc_collect_main (libpython3.11.so.1.0)": "garbage collector",
    "f (starlette/routing.py:1);gc_collect_main (libpython3.11.so.1.0);T (_asynciomodule.c)": "garbage collector",
    "f (re/__init__.py:1);sre_ucs1_match (libpython3.11.so.1.0)": "regular expressions",
    "call (contextlib.py:210);malloc (libc.so.6)": "standard library",
    "f (asyncio/mixins.py:1);_asyncio_get_running_loop (_asynciomodule.c.h)": "asyncio (tasks, futures; C)",
    "f (asyncio/mixins.py:1)": "asyncio (Python)",
    "on_headers (uvicorn/httptools_impl.py:2);llhttp__on_url (api.c)": "httptools (HTTP parser)",
    "Handle__run (loop.c)": "uvloop (event loop)",
    "main (<string>:1)": "standard library",
}


@pytest.mark.parametrize("line", STACKS)
def test_component_of_a_stack(line: str) -> None:
    profile = stacks.summed([f"{MAIN};{line} 3", f"{MAIN};{line} 4"])
    assert profile.components == {STACKS[line]: 7}
    assert profile.samples == 7 == sum(profile.functions.values())


def test_other_threads_and_damaged_lines_are_left_out() -> None:
    ours = [f"{MAIN};{line} 1" for line in STACKS]
    profile = stacks.summed([*ours, "thread (7): Thread-1 (_monitor);wait (threading.py:327) 99", "", "no count"])
    assert profile.samples == len(STACKS)
    assert profile.functions["devstral_proxy/server/body.py", "_loads"] == 1


def test_a_function_s_name_may_have_brackets() -> None:
    assert stacks.parsed("f.<locals>.<lambda> (a/b.py:7)") == ("f.<locals>.<lambda>", "a/b.py")
    assert stacks.parsed("operator() (x.cpp:7)") == ("operator()", "x.cpp")
    assert stacks.parsed("odd") == ("odd", "")


# ---------------------------------------------------------------- bodies


def test_bodies_are_what_the_simulator_reads() -> None:
    sizes = {"1k": (800, 2_500), "60k": (50_000, 70_000), "600k": (550_000, 650_000)}
    found = bodies.sizes()
    assert found == bodies.sizes(), "drawn from a seed"
    for name, (least, most) in sizes.items():
        text = json.dumps(found[name], separators=(",", ":"), ensure_ascii=False)
        assert least < len(text.encode()) < most
        assert re.search(r"req:0{16} n\d{4} d\d{4} k\d{4}\.", text)
        assert text.count("end:" + "0" * 16) == 1
        assert found[name]["messages"][-1]["role"] == "tool"


def test_bodies_are_accepted() -> None:
    translator = Translator(Profiles().find("devstral"))
    upstream = translator.request(bodies.sizes()["60k"])
    assert upstream["messages"][-1]["content"].endswith("end:" + "0" * 16)
    assert all(len(message.get("tool_call_id", "123456789")) == 9 for message in upstream["messages"])


def test_the_last_turn_stands_alone() -> None:
    body = bodies.sizes()["60k"]
    short = reuse.last_turn(body)
    assert [message["role"] for message in short["messages"]] == ["system", "user", "assistant", "tool"]
    assert short["messages"][-1] is body["messages"][-1]
    assert short["tools"] is body["tools"]


def test_what_reuse_saves() -> None:
    times = {"loads": 60.0, "request": 300.0, "dumps": 40.0}
    times |= {"request of the last turn": 100.0, "dumps of the last turn": 10.0}
    times |= {"compare messages": 20.0, "compare bytes": 5.0}
    assert reuse.saved(times) == {"of": 400.0, "translation": 180.0, "everything": 285.0}


# ---------------------------------------------------------------- plans


def test_plans_name_what_there_is() -> None:
    assert set(OVERLOAD) <= TESTS.keys()
    assert SAYS.keys() == TARGETS.keys()
    assert set(PEERS) <= TARGETS.keys()
    for test in TESTS.values():
        assert set(test.absent) <= TARGETS.keys()
        for plan in PLANS:
            arguments = test.arguments(plan)
            assert arguments[0] == "-b"
            assert arguments[1] in ("1k", "1k_s", "60k", "600k")
            assert test.times(plan) > 0


def test_turns_are_interleaved(tmp_path: Path) -> None:
    session = Session("quick", ["direct", "litellm", "project"], 99, tmp_path)
    pairs = [(target.name, test) for target, test in session._pairs(["c1", "drop300"])]
    assert pairs == [
        ("direct", "c1"), ("litellm", "c1"), ("project", "c1"),
        ("project", "drop300"),
        ("direct", "c1"), ("project", "c1"),
    ]  # fmt: skip


def test_the_command_line() -> None:
    assert options([]).plan == "quick"
    assert options(["--plan", "full", "--targets", "direct,project"]).targets == "direct,project"
    with pytest.raises(SystemExit):
        options(["--targets", "haproxy"])


# ---------------------------------------------------------------- goals, page, plot

MACHINE = {
    "processor": "A processor", "cores": 2, "memory_gb": 16, "kernel": "6.1", "python": "3.12.1", "project": "1.2.3",
    "libraries": {"uvloop": "0.22"},
}  # fmt: skip
RESULT: dict[str, Any] = {
    "plan": "quick", "date": "2025-01-01", "command": "python -m qa.bench", "seconds": 60, "machine": MACHINE,
    "peers": {"nginx": "1.26"}, "other_cores": 0.01, "left_out": {"litellm": "litellm is not installed"}, "cut": [],
    "why": {"project": ["2 failed"]}, "figures": summary(RUNS), "runs": RUNS,
}  # fmt: skip
PARTS: dict[str, Any] = {
    "memory": {
        "requests": 1000, "failed": 0, "idle": 45.0, "warm": 50.0, "end": 50.5, "peak": 55.0,
        "growth": 0.5, "slope": 500.0,
    },
    "workers": {"workers": 2, "idle": [{"rss": 40.0, "pss": 20.0}], "after": [{"rss": 60.0, "pss": 40.0}]},
    "profile": {
        "loads": {
            "c64": {
                "samples": 10, "kernel": 0.2, "components": [["orjson (JSON)", 0.9], ["rare", 0.001]],
                "functions": [["devstral_proxy/server/body.py", "_loads", 0.9]],
            },
        },
    },
    "reuse": {
        "sizes": {
            "60 KB": {
                "messages": 34, "loads": 60.0, "request": 300.0, "dumps": 40.0, "request of the last turn": 100.0,
                "request without tools": 30.0, "compare messages": 20.0, "saved translation": 180.0,
                "saved everything": 285.0, "saved of": 400.0,
            },
        },
    },
}  # fmt: skip


def test_goals() -> None:
    figures = {"project": {"x": 120.0}, "nginx": {"x": 100.0}}
    most, least = Goal("a", "x", 150, " µs"), Goal("b", "x", 1.3, " ×", True, "nginx")
    assert most.row(figures) == ["a", "≤ 150 µs", "120 µs", "yes"]
    assert least.row(figures) == ["b", "≥ 1.30 ×", "1.20 ×", "**no**"]
    assert Goal("c", "y", 0).row(figures) == ["c", "none", "not measured", "–"]
    assert Goal("d", "x", 0).row({"project": {"x": 0.0}}) == ["d", "none", "0", "yes"]


def test_goals_are_of_figures_that_are_measured() -> None:
    known = {row.name for row in ROWS} | {f"{test} failed" for test in TESTS} | {"growth MB"}
    assert {goal.metric for goal in GOALS} <= known
    assert {goal.over for goal in GOALS} <= {"", *PEERS}


def test_growth_is_a_goal() -> None:
    figures = with_memory(RESULT["figures"], PARTS["memory"])
    assert figures["project"]["growth MB"] == 0.5
    assert "growth MB" not in RESULT["figures"]["project"]


def test_the_page() -> None:
    page = report.page(RESULT, PARTS)
    titles = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert titles == [
        "Goals",
        "Beside its peers",
        "Where the time goes",
        "Memory",
        "Reusing the translation of earlier turns",
        "How it is measured",
    ]
    assert "| orjson (JSON) | 90.0% |" in page
    assert "| rare |" not in page
    assert "180 µs (45%)" in page
    assert "Left out: litellm" in page
    assert not re.search(r"(?<![\w.])/(work|tmp|home|root)\b", page)
    for table_ in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        assert len({line.count("|") for line in table_.splitlines()}) == 1, table_


def test_the_page_without_the_rest() -> None:
    page = report.page(RESULT, {})
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == ["Goals", "Beside its peers", "How it is measured"]


def test_the_report_writes_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(tmp_path / "result.json")]) == 1
    (tmp_path / "result.json").write_text(json.dumps(RESULT), "utf-8")
    (tmp_path / "memory.json").write_text(json.dumps(PARTS["memory"]), "utf-8")
    assert report.main([str(tmp_path / "result.json"), "--docs", str(tmp_path / "docs")]) == 0
    assert "## Memory" in (tmp_path / "docs" / "benchmarks.md").read_text("utf-8")
    assert "without profile, workers, reuse" in capsys.readouterr().out
    xml.etree.ElementTree.parse(tmp_path / "docs" / "benchmarks.svg")


@given(st.dictionaries(st.sampled_from(["nginx", "project", "litellm", "limit"]), st.floats(1e-3, 1e6)))
def test_the_plot_is_xml_with_a_dot_for_each(values: dict[str, float]) -> None:
    drawn = plot({name: {"c64 req/s": value, "rss peak MB": value} for name, value in values.items()})
    svg = xml.etree.ElementTree.fromstring(drawn)
    dots = svg.findall("{http://www.w3.org/2000/svg}circle")
    assert len(dots) == 2 * len(values)
    assert all(0 < float(dot.attrib["cx"]) < int(svg.attrib["width"]) for dot in dots)


# ---------------------------------------------------------------- the programs


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize("name", ["sim", "load"])
def test_the_programs_compile_without_a_warning(name: str, tmp_path: Path) -> None:
    command = ["gcc", "-Wall", "-Wextra", "-Werror", "-o", str(tmp_path / name), str(HERE / "c" / f"{name}.c")]
    subprocess.run(command, check=True, capture_output=True)
