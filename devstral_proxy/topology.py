"""UPSTREAMS: which models there are, and which servers serve each. Read and checked once, at start.

    {"devstral-small-2": {"servers": [{"url": "http://gpu1:8000", "weight": 2}, "http://gpu2:8000"],
                          "served": "mistralai/Devstral-Small-2-24B-Instruct-2512",
                          "aliases": ["devstral"], "fallback": ["devstral-2"]},
     "devstral-2": {"servers": ["http://gpu3:8000"]}}

What is wrong is told by entry and field (`devstral-2.servers[0].url: must be …`), never by value: it could be a key.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

_LONGEST_NAME: Final = 256
_HEAVIEST: Final = 1000.0
# Goes into log lines, metrics and headers.
_SERVER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/\[\]-]{0,63}")


@dataclass(frozen=True, slots=True)
class Server:
    """One vLLM. `api_key`: None for VLLM_API_KEY, empty for none. `weight`: its share of this model's conversations."""

    url: str
    name: str
    api_key: str | None = field(default=None, repr=False)
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One entry: the model's name for clients, its servers, and its name there (`served`)."""

    name: str
    servers: tuple[Server, ...]
    served: str
    aliases: tuple[str, ...] = ()
    fallback: tuple[str, ...] = ()


def models_of(entries: Any, source: str) -> tuple[ServedModel, ...]:
    """The entries of UPSTREAMS, as JSON gives them; `source` is a word for where they stand.

    Raises ValueError that names the entry and the field. A server that stands in several entries is one server: its
    name and its key need to be said once, and may not differ.
    """
    if not isinstance(entries, dict):
        raise ValueError(f"{source} must be an object with an entry for each model")
    models = _merged([_model(name, entry) for name, entry in entries.items()])
    _check_names(models)
    return models


def base_url(value: str) -> str:
    """A server's URL without `/v1`, trailing slash, query or fragment. Raises ValueError for what is none."""
    try:
        parts = urlsplit(value.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # its own text would show the value
        usable = False
    if not usable:
        raise ValueError("must be a URL like http://127.0.0.1:8000")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must hold no user or password; the key has a place of its own")
    if parts.query or parts.fragment:
        raise ValueError("must hold no query and no fragment")
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def one_word(value: str) -> str:
    """A key as it may stand in a header, without the space around it. Raises ValueError."""
    key = value.strip()
    if not all(33 <= ord(char) <= 126 for char in key):
        raise ValueError("must be one word of printable ASCII")
    return key


def _model(name: str, entry: Any) -> ServedModel:
    if not _is_name(name):
        raise ValueError(f"a model's name must be 1 to {_LONGEST_NAME} printable characters")
    _known(name, entry, ("servers", "served", "aliases", "fallback"))
    servers = entry.get("servers")
    if not isinstance(servers, list) or not servers:
        raise ValueError(f"{name}.servers: must be a list of one server or more")
    served = entry.get("served", name)
    if not _is_name(served):
        raise ValueError(f"{name}.served: must be the name of a model")
    read_servers = tuple(_server(f"{name}.servers[{index}]", server) for index, server in enumerate(servers))
    if len({server.url for server in read_servers}) != len(read_servers):
        raise ValueError(f"{name}.servers: names the same URL twice")
    aliases, fallback = _names(name, "aliases", entry), _names(name, "fallback", entry)
    return ServedModel(name, read_servers, served, aliases, tuple(dict.fromkeys(fallback)))


def _server(where: str, server: Any) -> Server:
    if isinstance(server, str):
        server = {"url": server}
    _known(where, server, ("url", "name", "api_key", "weight"))
    url, name, key, weight = server.get("url"), server.get("name", ""), server.get("api_key"), server.get("weight", 1)
    if not isinstance(url, str):
        raise ValueError(f"{where}.url: must be a URL like http://127.0.0.1:8000")
    if name != "" and not (isinstance(name, str) and _SERVER_NAME.fullmatch(name)):
        raise ValueError(f"{where}.name: must be 1 to 64 of A-Z a-z 0-9 . _ : / [ ] -")
    if key is not None and not isinstance(key, str):
        raise ValueError(f"{where}.api_key: must be a string")
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool) and math.isfinite(weight)
    if not number or not 0 < weight <= _HEAVIEST:
        raise ValueError(f"{where}.weight: must be a number above 0, at most {_HEAVIEST:g}")
    try:
        url = base_url(url)
    except ValueError as error:
        raise ValueError(f"{where}.url: {error}") from None
    try:
        key = None if key is None else one_word(key)
    except ValueError as error:
        raise ValueError(f"{where}.api_key: {error}") from None
    return Server(url, name, key, float(weight))


def _known(where: str, entry: Any, known: tuple[str, ...]) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: must be an object")
    for key in entry:
        if key not in known:
            raise ValueError(f"{where}: has a field that is none of {', '.join(known)}")


def _names(model: str, key: str, entry: dict[str, Any]) -> tuple[str, ...]:
    names = entry.get(key, [])
    if not isinstance(names, list) or not all(map(_is_name, names)):
        raise ValueError(f"{model}.{key}: must be a list of names of models")
    return tuple(names)


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and name.isprintable() and name == name.strip()


def _merged(models: list[ServedModel]) -> tuple[ServedModel, ...]:
    """The entries with the name and the key that each server has in any of them."""
    told: dict[str, Server] = {}
    for model in models:
        for index, server in enumerate(model.servers):
            known = told.get(server.url, server)
            for what in ("name", "api_key"):
                one, other = getattr(known, what), getattr(server, what)
                if one and other and one != other:
                    raise ValueError(f"{model.name}.servers[{index}].{what}: another entry says otherwise of this URL")
            key = known.api_key if known.api_key is not None else server.api_key
            told[server.url] = replace(known, name=known.name or server.name, api_key=key)
    hosts = [urlsplit(url).netloc for url in told]
    for url, server in told.items():
        parts = urlsplit(url)
        alone = hosts.count(parts.netloc) == 1
        told[url] = replace(server, name=server.name or (parts.netloc if alone else f"{parts.netloc}{parts.path}"))
    names = [server.name for server in told.values()]
    for model in models:
        for index, server in enumerate(model.servers):
            if names.count(told[server.url].name) > 1:
                raise ValueError(f"{model.name}.servers[{index}].name: another URL has the same")
    return tuple(
        replace(model, servers=tuple(replace(told[one.url], weight=one.weight) for one in model.servers))
        for model in models
    )


def _check_names(models: tuple[ServedModel, ...]) -> None:
    names = {model.name for model in models}
    taken = set(names)
    for model in models:
        for alias in model.aliases:
            if alias in taken:
                raise ValueError(f"{model.name}.aliases: a name in it is taken already")
            taken.add(alias)
        for other in model.fallback:
            if other not in names or other == model.name:
                raise ValueError(f"{model.name}.fallback: must name other entries")
