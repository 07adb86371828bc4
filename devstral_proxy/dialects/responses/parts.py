"""Content parts of the Responses API as those of chat completions.

Chat's own part types are taken too, as they are: clients that were written for both send them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from devstral_proxy.errors import BadRequest
from devstral_proxy.mistral.rewrites import RewriteLog

Part = dict[str, Any]
_SAYS_NOTHING: Final[tuple[Any, ...]] = (None, [], {})


def content(given: Any, where: str, log: RewriteLog) -> str | list[Part]:
    """A message's content, or a tool's output: the string, or chat parts; a sole text part is its string.

    Raises BadRequest for what is neither, and for a part of a type that the API does not have.
    """
    if isinstance(given, str):
        return given
    if not isinstance(given, list):
        raise BadRequest(f"'{where}' must be a string or an array of parts.", param=where)
    parts: list[Part] = []
    for index, part in enumerate(given):
        at = f"{where}[{index}]"
        if not isinstance(part, dict):
            raise BadRequest("A content part must be an object.", param=at)
        kind = part.get("type")
        make = PARTS.get(kind) if isinstance(kind, str) else None
        if make is None:
            known = ", ".join(f"'{name}'" for name in ("input_text", "input_image", "input_file", "output_text"))
            raise BadRequest(f"A content part's 'type' must be one of {known}, 'refusal'.", param=at + ".type")
        made = make(part, at)
        if made is None:
            log.add("reasoning_opaque", at)
        else:
            parts.append(made)
            if made["type"] == "text" and len(part) > 2:
                for key in part:
                    # Clients replay what they were told: `annotations` and `logprobs`, which are mostly empty.
                    if key not in ("type", "text") and part[key] not in _SAYS_NOTHING:
                        log.add("key_dropped", f"{at}.{key}")
    if len(parts) == 1 and parts[0]["type"] == "text":
        return str(parts[0]["text"])
    return parts


def _text(part: Part, where: str) -> Part:
    return {"type": "text", "text": _string(part, "text", where)}


def _refusal(part: Part, where: str) -> Part:
    return {"type": "refusal", "refusal": _string(part, "refusal", where)}


def _image(part: Part, where: str) -> Part:
    url = part.get("image_url")
    if url is None:
        if not isinstance(part.get("file_id"), str):
            raise BadRequest("An image needs 'image_url' or 'file_id'.", param=where + ".image_url")
        return {"type": "image_url"}  # there are no files here: a note will stand in its place
    if isinstance(url, dict):  # chat's form
        return {"type": "image_url", "image_url": url}
    if not isinstance(url, str):
        raise BadRequest("'image_url' must be a string.", param=where + ".image_url")
    detail = part.get("detail")
    return {
        "type": "image_url",
        "image_url": {"url": url, "detail": detail} if isinstance(detail, str) else {"url": url},
    }


def _file(part: Part, where: str) -> Part:
    if isinstance(part.get("file"), dict):  # chat's form
        return part
    keys = ("filename", "file_data", "file_id", "file_url")
    file = {key: part[key] for key in keys if isinstance(part.get(key), str)}
    if not file.keys() - {"filename"}:
        raise BadRequest("A file needs 'file_data', 'file_id' or 'file_url'.", param=where)
    return {"type": "file", "file": file}


def _as_it_is(part: Part, where: str) -> Part:
    return part


def _opaque(part: Part, where: str) -> None:
    return None


def _string(part: Part, key: str, where: str) -> str:
    value = part.get(key)
    if not isinstance(value, str):
        raise BadRequest(f"'{key}' must be a string.", param=f"{where}.{key}")
    return value


PARTS: Final[dict[str, Callable[[Part, str], Part | None]]] = {
    "input_text": _text,
    "output_text": _text,
    "text": _text,
    "summary_text": _text,
    "reasoning_text": _text,
    "refusal": _refusal,
    "input_image": _image,
    "image_url": _image,
    "computer_screenshot": _image,
    "input_file": _file,
    "file": _file,
    "input_audio": _as_it_is,
    "encrypted_content": _opaque,
}
