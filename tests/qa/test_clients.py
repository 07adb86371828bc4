"""The clients' runner without a network, Node or a client: configurations, script, faults, verdicts, the page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from qa.clients import install
from qa.clients.__main__ import listed, options, why_not
from qa.clients.docs import PAGE, block, clients_of, filled, with_results
from qa.clients.model import BASE, Client, Package, Place, command_of, environment_of, text_of
from qa.clients.report import failed, load, save, table
from qa.clients.run import SDK, access_lines, started_in
from qa.clients.scenarios import SCENARIOS
from qa.clients.script import FINAL, HELLO, MARK, PASSED, SUBMIT, Script, has_image, results_of, rounds_done, tools_of
from qa.clients.table import CLIENTS
from qa.clients.upstream import Upstream, long_ids
from qa.clients.verdict import Verdict

WORK = Path("/somewhere/work")
PLACE = Place(Path("/somewhere/home"), WORK, Path("/somewhere/bin"), SDK, "http://127.0.0.1:4711")
EACH = pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS.keys())


def tool(name: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


TEXT = {"type": "string"}
TOOLS = [
    tool("Read", path=TEXT),
    tool("Write", path=TEXT, content=TEXT),
    tool("Edit", path=TEXT, old_string=TEXT, new_string=TEXT),
    tool("Bash", command=TEXT),
]

# ---------------------------------------------------------------- the table of clients


@EACH
def test_versions_are_pinned(client: Client) -> None:
    mark = "@" if client.package.kind == "npm" else "=="
    for spec in client.package.specs:
        assert re.fullmatch(rf".+{mark}\d+(\.\d+)+", spec), spec
    assert client.release[1]


@EACH
def test_configurations_name_the_proxy_and_are_well_formed(client: Client) -> None:
    environment = environment_of(client, PLACE, "/bin")
    texts = [text_of(file, PLACE) for file in client.files]
    assert any(PLACE.base in text for text in [*texts, *environment.values()]), "nothing names the proxy"
    assert not any(BASE in text for text in [*texts, *environment.values()]), "not everything was filled in"
    assert not any(re.search(r"\{(home|work|root|picture)\}", text) for text in environment.values())
    for file, text in zip(client.files, texts, strict=True):
        assert not Path(file.path).is_absolute()
        if file.language == "json":
            json.loads(text)
        if file.language == "toml":
            tomllib.loads(text)


@EACH
def test_a_client_gets_nothing_of_the_caller_s(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-secret")
    environment = environment_of(client, PLACE, "/bin")
    assert environment["HOME"] == str(PLACE.home)
    assert "sk-secret" not in json.dumps(environment)


@EACH
def test_commands_are_filled_in(client: Client) -> None:
    command = command_of(client, PLACE, "do it")
    assert not any("{" in part for part in command), command
    assert "pic.png" not in command
    if client.image:
        assert set(client.image) <= set(command_of(client, PLACE, "do it", image=True))


@EACH
def test_exceptions_name_scenarios_that_exist(client: Client) -> None:
    assert {*client.gives_up, *client.skip} <= SCENARIOS.keys()


def test_programs_of_the_table_are_there() -> None:
    for client in CLIENTS.values():
        for part in client.command:
            if part.startswith("{sdk}/"):
                assert (SDK / part.removeprefix("{sdk}/")).is_file()
            if part.startswith("qa.clients.sdk."):
                assert (SDK / f"{part.rpartition('.')[2]}.py").is_file()


def test_one_folder_holds_one_set_of_packages() -> None:
    folders: dict[tuple[str, str], Package] = {}
    for client in CLIENTS.values():
        assert folders.setdefault((client.package.kind, client.package.folder), client.package) == client.package


# ---------------------------------------------------------------- the script


def play(script: Script, tools: list[dict[str, Any]], results: dict[str, str]) -> list[list[tuple[str, Any]]]:
    """The calls of each turn until the model stops calling, with an agent that answers each."""
    body: dict[str, Any] = {"tools": tools, "messages": [{"role": "user", "content": "go"}]}
    turns: list[list[tuple[str, Any]]] = []
    for _ in range(12):
        turn = script(body)
        if not turn.calls:
            assert turn.text == MARK
            return turns
        turns.append([(call.name, call.arguments) for call in turn.calls])
        calls = [{"id": str(index), "function": {"name": call.name}} for index, call in enumerate(turn.calls)]
        body["messages"].append({"role": "assistant", "tool_calls": calls})
        body["messages"] += [{"role": "tool", "content": results.get(call.name, "ok")} for call in turn.calls]
    raise AssertionError("it never stops")


def test_the_script_s_rounds() -> None:
    turns = play(Script(WORK), TOOLS, {})
    assert [[name for name, _ in turn] for turn in turns] == [["Read"], ["Bash", "Write"], ["Read"], ["Edit"], ["Bash"]]
    assert turns[0][0][1] == {"path": f"{WORK}/hello.txt"}
    assert turns[1][1][1]["path"] == f"{WORK}/out.txt"
    edit = turns[3][0][1]
    assert edit["new_string"] == FINAL
    assert edit["old_string"] in turns[1][1][1]["content"]
    assert PASSED not in turns[4][0][1]["command"], "the word of success must come from the command's output alone"


def test_a_shell_is_enough() -> None:
    turns = play(Script(WORK), [tool("shell", command={"type": "array", "items": TEXT})], {})
    assert [[name for name, _ in turn] for turn in turns] == [
        ["shell"],
        ["shell", "shell"],
        ["shell"],
        ["shell"],
        ["shell"],
    ]
    assert turns[0][0][1]["command"][0] == "bash"


def test_an_agent_s_closing_tool_is_used() -> None:
    turns = play(Script(WORK), [*TOOLS, tool("finish", message=TEXT)], {})
    assert turns[-1] == [("finish", {"message": MARK})]


def test_an_agent_that_ends_by_a_command() -> None:
    body: dict[str, Any] = {"tools": TOOLS[3:], "messages": [{"role": "user", "content": f"say {SUBMIT}"}]}
    body["messages"] += [{"role": role, "tool_calls": [{}]} for _ in range(5) for role in ("assistant", "tool")]
    (call,) = Script(WORK)(body).calls
    assert isinstance(call.arguments, dict)
    assert call.arguments["command"].startswith(f"echo {SUBMIT}")


def test_one_call_a_turn_where_no_more_are_allowed() -> None:
    script = Script(WORK)
    messages = [{"role": "assistant", "tool_calls": [{}]}, {"role": "tool", "content": "x"}]
    assert len(script({"tools": TOOLS, "messages": messages}).calls) == 2
    assert len(script({"tools": TOOLS, "messages": messages, "parallel_tool_calls": False}).calls) == 1


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, "hello.txt"),
        ({"$ref": "#/$defs/P", "$defs": {}}, "hello.txt"),
        ({"type": ["string", "null"]}, "hello.txt"),
    ],
)
def test_arguments_from_odd_schemas(schema: dict[str, Any], value: str) -> None:
    parameters = {
        "type": "object",
        "properties": {"path": schema},
        "required": ["path"],
        "$defs": {"P": {"type": "string"}},
    }
    body = {"tools": [{"type": "function", "function": {"name": "read", "parameters": parameters}}], "messages": []}
    (call,) = Script(WORK)(body).calls
    assert isinstance(call.arguments, dict)
    assert str(call.arguments["path"]).endswith(value)


def test_other_questions_get_other_answers() -> None:
    script = Script(WORK, rich=True)
    assert script({"messages": [{"role": "user", "content": "a title?"}]}).text == "A short title"
    schema = {"type": "object", "properties": {"done": {"type": "boolean"}}, "required": ["done"]}
    wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
    assert json.loads(script({"messages": [], "response_format": wanted}).text) == {"done": False}
    assert script({"tools": TOOLS, "messages": []}).reasoning
    forced = {"type": "function", "function": {"name": "Bash"}}
    assert script({"tools": TOOLS, "messages": [], "tool_choice": forced}).calls[0].name == "Bash"


def test_what_a_request_shows() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:,"}}
    messages = [
        {"role": "user", "content": [picture]},
        {"role": "assistant", "tool_calls": [{}]},
        {"role": "assistant", "tool_calls": [{}]},
        {"role": "tool", "content": HELLO},
    ]
    body = {"messages": messages, "tools": TOOLS}
    assert has_image(body)
    assert not has_image({"messages": messages[1:]})
    assert rounds_done(body) == 1, "calls sent one by one are one turn"
    assert HELLO in results_of(body)
    assert list(tools_of(body)) == ["Read", "Write", "Edit", "Bash"]


# ---------------------------------------------------------------- the upstream


def ask(upstream: Upstream, count: int, tools: bool = True, stream: bool = True) -> list[httpx.Response]:
    async def talk() -> list[httpx.Response]:
        transport = httpx.ASGITransport(upstream)
        body = {"model": "devstral-small-2", "messages": [{"role": "user", "content": "go"}], "stream": stream}
        if tools:
            body["tools"] = TOOLS
        async with httpx.AsyncClient(transport=transport, base_url="http://upstream") as client:
            return [await client.post("/v1/chat/completions", json=body) for _ in range(count)]

    return anyio.run(talk)


def test_a_fault_hits_the_second_request_with_tools_once() -> None:
    upstream = Upstream(Script(WORK), SCENARIOS["429once"])
    answers = ask(upstream, 3)
    assert [answer.status_code for answer in answers] == [200, 429, 200]
    assert answers[1].headers["retry-after"]
    assert [seen.status for seen in upstream.seen] == [200, 429, 200]
    assert [seen.fault for seen in upstream.seen] == ["", "429", ""]


def test_requests_without_tools_do_not_count() -> None:
    upstream = Upstream(Script(WORK), SCENARIOS["503once"])
    assert [answer.status_code for answer in ask(upstream, 3, tools=False)] == [200, 200, 200]
    assert [
        answer.status_code for answer in ask(Upstream(Script(WORK, tools=False), SCENARIOS["503once"]), 2, tools=False)
    ] == [503, 200]


@pytest.mark.parametrize("stream", [True, False])
def test_long_ids(stream: bool) -> None:
    (answer,) = ask(Upstream(Script(WORK), SCENARIOS["longids"]), 1, stream=stream)
    assert re.search(r'"chatcmpl-tool-[0-9a-f]{32}"', answer.text)
    if not stream:
        assert answer.json()["choices"][0]["message"]["tool_calls"]


def test_only_short_ids_are_made_long() -> None:
    assert not long_ids({"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {}}]}}]})
    assert not long_ids({"choices": [{"delta": {"content": "x"}}]})


def test_refusals_are_kept() -> None:
    upstream = Upstream(Script(WORK), SCENARIOS["base"])

    async def talk() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(upstream), base_url="http://upstream") as client:
            body = {"model": "devstral-small-2", "messages": [{"role": "assistant", "content": "x"}]}
            await client.post("/v1/chat/completions", json=body)
            assert (await client.get("/v1/models")).status_code == 200

    anyio.run(talk)
    (seen,) = upstream.seen
    assert seen.status == 400
    assert "assistant" in seen.refusal


# ---------------------------------------------------------------- report, page, command line


def test_the_table_and_the_report(tmp_path: Path) -> None:
    rows = {
        "pi": {"base": Verdict("PASS"), "slow": Verdict("FAIL", ("too slow",))},
        "codex": {"base": Verdict("skipped", ("no Node",))},
    }
    text = table(rows)
    assert text.splitlines()[0].split() == ["client", "version", "base", "slow"]
    assert "pi: FAIL slow: too slow" in text
    assert "codex: skipped base: no Node" in text
    assert failed(rows) == ["pi slow"]
    save(tmp_path / "report.json", rows)
    save(tmp_path / "report.json", {"pi": {"slow": Verdict("PASS")}})
    runs = load(tmp_path / "report.json")["pi"]["runs"]
    assert {name: run["status"] for name, run in runs.items()} == {"base": "PASS", "slow": "PASS"}


def test_access_lines() -> None:
    log = '{"message": "listening"}\nnot json\n{"method": "POST", "status": 200, "path": "/v1/messages"}\n'
    assert [line["path"] for line in access_lines(log)] == ["/v1/messages"]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_what_a_client_leaves_running_is_found(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={"HOME": str(tmp_path)}, start_new_session=True
    )
    try:
        assert started_in(tmp_path) == [child.pid]
        assert started_in(tmp_path / "other") == []
    finally:
        child.communicate(b"\n")


def test_the_page_shows_what_the_runner_writes() -> None:
    page = PAGE.read_text("utf-8")
    assert filled(page) == page, "run: python -m qa.clients --docs"
    assert set(clients_of(page)) == {name for name, client in CLIENTS.items() if client.documented}


def test_results_need_every_client(tmp_path: Path) -> None:
    page, report = "<!-- results -->\nold\n<!-- end of results -->", tmp_path / "report.json"
    assert with_results(page, report) == page, "there is no report"
    save(report, {"pi": {"base": Verdict("PASS")}})
    assert with_results(page, report) == page, "a part of the clients"
    row = dict.fromkeys(SCENARIOS, Verdict("PASS"))
    save(report, {name: {**row, "cutonce": Verdict("ends", ("it raises",))} for name in CLIENTS})
    made = with_results(page, report)
    assert "old" not in made
    assert "- ends: it raises (pi `cutonce`; Codex `cutonce`; " in made


def test_a_block_holds_files_environment_and_limits() -> None:
    made = block(replace(CLIENTS["codex"], gives_up={"cutonce": "it ends"}))
    assert 'wire_api = "responses"' in made
    assert "export DEVSTRAL_PROXY_KEY=" in made
    assert "`cutonce`: it ends." in made


def test_the_command_line() -> None:
    asked = options(["--only", "pi,codex", "--fault", "429once"])
    assert (asked.only, asked.fault) == ("pi,codex", "429once")
    assert "pi " in listed()
    with pytest.raises(SystemExit):
        options(["--only", "nobody"])
    assert why_not(replace(CLIENTS["pi"], image=None), "image")
    assert not why_not(CLIENTS["pi"], "base")


def test_missing_node_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(install.Missing, match="needs Node 20"):
        install.check_node()


def test_missing_python_is_said() -> None:
    with pytest.raises(install.Missing, match=r"needs Python 2\.0"):
        install.python_for(Package("x", "pip", ("x==1.0",), ("2.0",)))
