"""Requests that are refused for their size, and images that vLLM must not fetch."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any, Final

from devstral_proxy.config import Settings
from devstral_proxy.errors import BadRequest
from devstral_proxy.mistral.json_text import MAX_DEPTH, deep_path

_MESSAGES: Final = ("messages", "input")  # the Responses API's word is the second
_TOOLS: Final = ("tools", "functions")

Refuse = Callable[[str], str | None]
"""Why a URL is not passed on to vLLM; None: it is."""


def check_shape(request: dict[str, Any], settings: Settings) -> None:
    """Raises BadRequest, in OpenAI's words, when a client's own body has more messages or tools than allowed, or is
    nested more deeply than MAX_JSON_DEPTH.

    Nothing is looked through for the default of MAX_JSON_DEPTH: what is too deep for the translation, or for the
    writing of what it gives, ends in a BadRequest there, and every server reads what is left.
    """
    for names, most in ((_MESSAGES, settings.max_messages), (_TOOLS, settings.max_tools)):
        if most:
            for name in names:
                given = request.get(name)
                if isinstance(given, list) and len(given) > most:
                    message = (
                        f"Invalid '{name}': array too long. Expected an array with maximum length {most}, "
                        f"but got an array with length {len(given)} instead."
                    )
                    raise BadRequest(message, param=name, code="array_above_max_length")
    most = settings.max_json_depth
    if most < MAX_DEPTH and (path := deep_path(request, most)) is not None:
        raise BadRequest(f"The request is nested over {most} levels deep.", param=path)


def image_policy(settings: Settings) -> Refuse | None:
    """What `check_images` is to ask for each URL; None when every URL may pass and nothing has to be looked at."""
    return {"any": None, "public": refuse_image_url, "data": _refuse_all_but_data}[settings.image_urls]


def check_images(messages: Any, refuse: Refuse) -> None:
    """Raises BadRequest for the first image (or sound, or video) of chat messages whose URL may not be passed on.

    Takes both translated messages and a client's own, which the relayed endpoints pass on as they are. The error
    counts images and names no URL.
    """
    if not isinstance(messages, list):
        return
    count = 0
    for content in [message.get("content") for message in messages if isinstance(message, dict)]:
        if not isinstance(content, list):
            continue
        for part in content:
            if not isinstance(part, dict) or part.get("type") == "text":
                continue
            for name in _URL_FIELDS:
                value = part.get(name)
                url = value.get("url") if isinstance(value, dict) else value
                if isinstance(url, str):
                    count += 1
                    reason = refuse(url)
                    if reason is not None:
                        where = f"{name[:-4]} {count} of the messages"
                        raise BadRequest(f"{where}: {reason}", param="messages", code="invalid_image_url")


_URL_FIELDS: Final = ("image_url", "audio_url", "video_url")  # what vLLM fetches

_DATA: Final = re.compile(r"data:", re.IGNORECASE)
# One plain authority and nothing that two parsers of URLs could read in two ways: no user, no escapes, no backslash,
# no blanks, ASCII only.
_HTTP: Final = re.compile(
    r"https?://(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<host>[a-z0-9._-]+))(?::[0-9]{0,5})?(?=[/?#]|\Z)",
    re.IGNORECASE | re.ASCII,
)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)

_NOT_PUBLIC: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        # IANA's registry of special-purpose addresses; 169.254.169.254 and 100.100.100.200 (metadata) are in it
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "168.63.129.16/32",  # Azure's own, in every virtual network
        # Of IPv6 only 2000::/3 is public, and not all of it: Teredo, 6to4 hold an IPv4 address
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
    )
)
_IPV6_PUBLIC: Final = ipaddress.IPv6Network("2000::/3")
_LOCAL_NAMES: Final = (
    ".localhost",
    ".localdomain",
    ".local",
    ".internal",
    ".intranet",
    ".private",
    ".corp",
    ".home",
    ".lan",
    ".home.arpa",
    ".svc",
)


def refuse_image_url(url: str) -> str | None:
    """IMAGE_URLS=public: why vLLM must not be sent to this URL, or None.

    `data:` is always taken; of `http` and `https` those that name a public address, or a name that is no local one.
    It is the literal URL that is judged: what a name resolves to, and where a redirect leads, only vLLM can know.
    """
    if _DATA.match(url):
        return None
    found = _HTTP.match(url)
    if found is None:
        return "its URL must be a data: URL, or a plain http or https URL without a user"
    if found["v6"] is not None:
        return _refuse_address(found["v6"])
    host = found["host"].lower().rstrip(".")
    last = host.rpartition(".")[2]
    if _NUMBER.fullmatch(last):
        return _refuse_address(host)  # 127.1, 0x7f.1, 2130706433 and 0177.0.0.1 are addresses too, but in no plain form
    if "." not in host or host.endswith(_LOCAL_NAMES):
        return "its URL names a host of a private network"
    return None


def _refuse_address(text: str) -> str | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "its URL has an IP address that is not in the plain form"
    public = address.version == 4 or address in _IPV6_PUBLIC
    if not public or any(address in network for network in _NOT_PUBLIC):
        return "its URL has an address that is not public"
    return None


def _refuse_all_but_data(url: str) -> str | None:
    """IMAGE_URLS=data."""
    return None if _DATA.match(url) else "only data: URLs are taken here"
