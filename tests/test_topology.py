"""UPSTREAMS: what it may say, and how what is wrong is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from devstral_proxy.config import ConfigError, load
from devstral_proxy.topology import ServedModel, Server

ENTRY: dict[str, Any] = {
    "devstral-small-2": {
        "servers": [{"url": "http://gpu1:8000/v1/", "api_key": " seCret ", "weight": 2, "name": "gpu1"}, "http://gpu2"],
        "served": "mistralai/Devstral-Small-2",
        "aliases": ["devstral", "small"],
        "fallback": ["devstral-2", "devstral-2"],
    },
    "devstral-2": {"servers": ["http://gpu3:8000"]},
}


def read(value: Any) -> tuple[ServedModel, ...]:
    return load(upstreams=json.dumps(value)).served_models


def test_all_of_it() -> None:
    small, large = read(ENTRY)
    assert small == ServedModel(
        "devstral-small-2",
        (Server("http://gpu1:8000", "gpu1", "seCret", 2.0), Server("http://gpu2", "gpu2", None, 1.0)),
        "mistralai/Devstral-Small-2",
        ("devstral", "small"),
        ("devstral-2",),
    )
    assert large == ServedModel("devstral-2", (Server("http://gpu3:8000", "gpu3:8000"),), "devstral-2")


def test_it_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "upstreams.json"
    path.write_text(json.dumps(ENTRY))
    assert load(upstreams=str(path)).served_models == read(ENTRY)


def test_none_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().served_models == ()
    monkeypatch.setenv("UPSTREAMS", " ")
    assert load().served_models == ()


def test_a_server_of_two_models_is_one() -> None:
    one, two = read(
        {
            "a": {"servers": [{"url": "http://gpu", "api_key": "k", "weight": 3}]},
            "b": {"servers": [{"url": "http://gpu/v1", "name": "first"}]},
        }
    )
    assert one.servers == (Server("http://gpu", "first", "k", 3.0),)
    assert two.servers == (Server("http://gpu", "first", "k", 1.0),)


def test_names_tell_servers_of_one_host_apart() -> None:
    (model,) = read({"a": {"servers": ["http://gpu/one", "http://gpu/two/v1", "http://gpu:81"]}})
    assert [server.name for server in model.servers] == ["gpu/one", "gpu/two", "gpu:81"]


def test_keys_are_never_shown() -> None:
    settings = load(upstreams=json.dumps(ENTRY))
    assert "seCret" not in f"{settings!r} {settings} {settings.model_dump()} {settings.served_models!r}"


SERVER = {"url": "http://gpu"}
WRONG: dict[str, tuple[Any, str]] = {
    "no object": ([1], "neither a JSON object nor a file"),
    "nothing as entry": ({"a": None}, "a: must be an object"),
    "unknown field": ({"a": {"servers": ["http://gpu"], "seCret": 1}}, "a: has a field that is none of servers, "),
    "no servers": ({"a": {}}, "a.servers: must be a list"),
    "empty servers": ({"a": {"servers": []}}, "a.servers: must be a list"),
    "server of a kind": ({"a": {"servers": [1]}}, r"a.servers\[0\]: must be an object"),
    "server without url": ({"a": {"servers": [{}]}}, r"a.servers\[0\].url: must be a URL"),
    "url of a kind": ({"a": {"servers": ["http://ok", "ftp://seCret"]}}, r"a.servers\[1\].url: must be a URL"),
    "url with a key": ({"a": {"servers": ["http://u:seCret@gpu"]}}, r"a.servers\[0\].url: must hold no user"),
    "url with a query": ({"a": {"servers": ["http://gpu?k=seCret"]}}, r"a.servers\[0\].url: must hold no query"),
    "url twice": ({"a": {"servers": ["http://gpu", "http://gpu/v1"]}}, "a.servers: names the same URL twice"),
    "unknown field of a server": ({"a": {"servers": [{**SERVER, "key": "seCret"}]}}, r"a.servers\[0\]: has a field"),
    "key of a kind": ({"a": {"servers": [{**SERVER, "api_key": 7}]}}, r"a.servers\[0\].api_key: must be a string"),
    "two words": ({"a": {"servers": [{**SERVER, "api_key": "seCret k"}]}}, r"a.servers\[0\].api_key: must be one word"),
    "weight": ({"a": {"servers": [{**SERVER, "weight": 0}]}}, r"a.servers\[0\].weight: must be a number"),
    "weight of a kind": ({"a": {"servers": [{**SERVER, "weight": True}]}}, r"a.servers\[0\].weight: must be a number"),
    "name of a server": ({"a": {"servers": [{**SERVER, "name": "g u"}]}}, r"a.servers\[0\].name: must be 1 to 64"),
    "name with a line end": ({"a": {"servers": [{**SERVER, "name": "g\n"}]}}, r"a.servers\[0\].name: must be 1 to 64"),
    "one name for two": (
        {"a": {"servers": [{**SERVER, "name": "x"}, {"url": "http://b", "name": "x"}]}},
        r"a.servers\[0\].name: another URL",
    ),
    "two keys for one": (
        {"a": {"servers": [{**SERVER, "api_key": "seCret"}]}, "b": {"servers": [{**SERVER, "api_key": "seCret2"}]}},
        r"b.servers\[0\].api_key: another entry says otherwise",
    ),
    "served": ({"a": {"servers": [SERVER], "served": ""}}, "a.served: must be the name"),
    "aliases": ({"a": {"servers": [SERVER], "aliases": "x"}}, "a.aliases: must be a list"),
    "alias of a kind": ({"a": {"servers": [SERVER], "aliases": [1]}}, "a.aliases: must be a list"),
    "alias of itself": ({"a": {"servers": [SERVER], "aliases": ["a"]}}, "a.aliases: a name in it is taken"),
    "fallback to nobody": ({"a": {"servers": [SERVER], "fallback": ["b"]}}, "a.fallback: must name other entries"),
    "fallback to itself": ({"a": {"servers": [SERVER], "fallback": ["a"]}}, "a.fallback: must name other entries"),
    "name of a model": ({"a\nb": {"servers": [SERVER]}}, "a model's name must be"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_by_entry_and_field(case: str) -> None:
    value, says = WRONG[case]
    with pytest.raises(ConfigError, match=f"^UPSTREAMS: {says}" if "neither" not in says else says) as caught:
        read(value)
    assert "seCret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{seCret", '{"a": {}, "a": {}}', '{"a": ' * 9999, "/seCret/is-not-there.json"])
def test_what_is_no_json_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^UPSTREAMS: ") as caught:
        load(upstreams=text)
    assert "seCret" not in str(caught.value)
