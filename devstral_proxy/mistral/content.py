"""Message content: any list of parts becomes the few kinds of part that Mistral's tokenizers read.

Those are `text` and `image_url` in user messages, `text` and, where the model reasons, `thinking` in assistant and
system messages, and plain strings in tool messages (F21, F25, F29 to F32). Everything else is text in another
wrapping, or an attachment for which the model has no eyes or ears: that becomes a short note in its place.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

import orjson

from devstral_proxy.mistral.rewrites import RewriteLog

JOIN: Final = "\n\n"
"""How mistral-common joins neighbouring texts; texts joined here have to come out as the same tokens."""

IMAGE_NOTE: Final = "[image omitted: it cannot be shown to this model here]"
AUDIO_NOTE: Final = "[audio omitted: this model takes no audio]"
VIDEO_NOTE: Final = "[video omitted: this model takes no video]"
_SOUND_AND_VISION: Final[dict[Any, str]] = {
    **dict.fromkeys(("input_audio", "audio", "audio_url"), AUDIO_NOTE),
    **dict.fromkeys(("video", "video_url", "input_video"), VIDEO_NOTE),
}
# Parts whose text is all that they say; of others every member is kept.
_WRAPPERS: Final = (None, "text", "input_text", "output_text", "summary_text", "refusal", "tool_result")
_MARKINGS: Final = frozenset(("type", "cache_control", "annotations", "id", "index"))
_TEXT_KEYS: Final = frozenset(("type", "text"))
_IMAGE_KEYS: Final = frozenset(("type", "image_url"))
_URL_KEYS: Final = frozenset(("url", "detail"))
_THINKING_KEYS: Final = frozenset(("type", "thinking", "closed"))


class Parts(NamedTuple):
    """What a list of parts came to: `parts` is the given list itself where it was in Mistral's form already."""

    parts: list[dict[str, Any]]
    images: int


class Allowed(NamedTuple):
    """Which kinds of part may stay in a message."""

    images: bool = False
    thinking: Literal["keep", "drop", "text"] = "text"


def as_text(parts: list[dict[str, Any]]) -> str:
    """The texts of text parts, joined as mistral-common would."""
    return JOIN.join([part["text"] for part in parts if part["type"] == "text" and part["text"]])


def translate_parts(given: list[Any], allowed: Allowed, where: str, log: RewriteLog) -> Parts:
    """Every part in Mistral's form, in order; notes stand for what may not stay."""
    if all(_is_plain(part) for part in given):
        return Parts(given, 0)
    parts: list[dict[str, Any]] = []
    for index, part in enumerate(given):
        _translate(part, allowed, f"{where}[{index}]", log, parts)
    return Parts(parts, sum(part["type"] == "image_url" for part in parts))


def keep_last_images(messages: list[dict[str, Any]], keep: int) -> list[dict[str, Any]]:
    """Translated messages with a note for each image but the last `keep`; the same list where there are no more."""
    left = sum(map(_count_images, messages)) - keep
    if left <= 0:
        return messages
    kept: list[dict[str, Any]] = []
    for message in messages:
        if left > 0 and _count_images(message):
            parts = []
            for part in message["content"]:
                if part["type"] == "image_url" and left > 0:
                    left -= 1
                    part = {"type": "text", "text": IMAGE_NOTE}
                parts.append(part)
            message = {**message, "content": parts}
        kept.append(message)
    return kept


def _count_images(message: dict[str, Any]) -> int:
    content = message.get("content")
    return sum(part["type"] == "image_url" for part in content) if isinstance(content, list) else 0


def _is_plain(part: Any) -> bool:
    return (
        isinstance(part, dict)
        and part.keys() == _TEXT_KEYS
        and part["type"] == "text"
        and isinstance(part["text"], str)
    )


def _translate(part: Any, allowed: Allowed, where: str, log: RewriteLog, out: list[dict[str, Any]]) -> None:
    if isinstance(part, str):
        log.add("part_flattened", where)
        out.append({"type": "text", "text": part})
        return
    if not isinstance(part, dict):
        log.add("part_flattened", where)
        if part is not None:
            out.append({"type": "text", "text": _json(part)})
        return
    kind = part.get("type")
    if _is_plain(part):
        out.append(part)
    elif kind in ("thinking", "reasoning", "redacted_thinking"):
        _thinking(part, allowed, where, log, out)
    elif (image := _image_url(part)) is not None:
        _image(part, image, allowed, where, log, out)
    elif kind in _SOUND_AND_VISION:
        log.add("attachment_omitted", where)
        out.append({"type": "text", "text": _SOUND_AND_VISION[kind]})
    elif kind in ("file", "input_file", "document"):
        _file(part, allowed, where, log, out)
    elif kind in ("image", "image_url", "input_image"):
        log.add("image_omitted", where)  # by file id, or broken: there is nothing to send
        out.append({"type": "text", "text": "[image omitted: no data or URL came with it]"})
    else:
        _text(part, allowed, where, log, out)


def _text(part: dict[str, Any], allowed: Allowed, where: str, log: RewriteLog, out: list[dict[str, Any]]) -> None:
    """Text in any wrapping: other names, extra keys, nested lists, or a part that nobody knows."""
    log.add("part_flattened", where)
    if part.get("type") not in _WRAPPERS and len(part.keys() - _MARKINGS) > 1:
        out.append({"type": "text", "text": _json({key: part[key] for key in part if key != "cache_control"})})
        return
    for key in ("text", "refusal", "output_text", "content", "output", "value"):
        value = part.get(key)
        if isinstance(value, dict) and isinstance(value.get("value"), str):
            value = value["value"]
        if isinstance(value, str):
            out.append({"type": "text", "text": value})
            return
        if isinstance(value, list):
            for index, inner in enumerate(value):
                _translate(inner, allowed, f"{where}.{key}[{index}]", log, out)
            return
    if part.get("type") in ("text", "input_text", "output_text", "refusal"):
        return  # null or missing text
    out.append({"type": "text", "text": _json({key: value for key, value in part.items() if key != "cache_control"})})


def _thinking(part: dict[str, Any], allowed: Allowed, where: str, log: RewriteLog, out: list[dict[str, Any]]) -> None:
    text = thinking_text(part.get("thinking", part.get("text", part.get("content"))))
    if allowed.thinking == "drop" or not text:
        log.add("reasoning_dropped", where)
        return
    if allowed.thinking == "text":
        log.add("part_flattened", where)
        out.append({"type": "text", "text": text})
        return
    if part.keys() <= _THINKING_KEYS and part.get("thinking") == text and isinstance(part.get("closed", True), bool):
        out.append(part)
        return
    log.add("reasoning_converted", where)
    out.append({"type": "thinking", "thinking": text})


def thinking_text(value: Any) -> str:
    """Reasoning as one string: it comes as a string or as a list of parts (F25)."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        texts = [
            inner if isinstance(inner, str) else thinking_text(inner.get("text", inner.get("thinking")))
            for inner in value
            if isinstance(inner, (str, dict))
        ]
        return "\n".join(text for text in texts if text)
    return ""


def _image_url(part: dict[str, Any]) -> dict[str, Any] | None:
    """`{"url", "detail"?}` of a part that holds an image in any client's form, else None."""
    kind = part.get("type")
    value = part.get("image_url")
    if kind in ("image_url", "input_image") and value is not None:
        if isinstance(value, str):
            value = {"url": value, "detail": part.get("detail")}
        if isinstance(value, dict) and isinstance(value.get("url"), str) and value["url"]:
            detail = value.get("detail")
            if value.keys() <= _URL_KEYS and ("detail" not in value or isinstance(detail, str)):
                return value
            return {"url": value["url"], "detail": detail} if isinstance(detail, str) else {"url": value["url"]}
        return None
    source = part.get("source")
    if kind == "image" and isinstance(source, dict):  # Anthropic's form
        if isinstance(source.get("data"), str):
            return {"url": f"data:{source.get('media_type') or 'image/png'};base64,{source['data']}"}
        return {"url": source["url"]} if isinstance(source.get("url"), str) else None
    if kind != "image":
        return None
    named = [part[key] for key in ("mimeType", "mime_type", "media_type") if isinstance(part.get(key), str)]
    mime = named[0] if named else "image/png"
    for key in ("data", "base64"):  # MCP's and LangChain's forms
        if isinstance(part.get(key), str):
            return {"url": f"data:{mime};base64,{part[key]}"}
    if isinstance(part.get("url"), str) and part["url"]:
        return {"url": part["url"]}
    if isinstance(part.get("image"), str) and part["image"]:
        data = part["image"]
        return {"url": data if data.startswith(("http://", "https://", "data:")) else f"data:{mime};base64,{data}"}
    return None


def _image(
    part: dict[str, Any],
    image: dict[str, Any],
    allowed: Allowed,
    where: str,
    log: RewriteLog,
    out: list[dict[str, Any]],
) -> None:
    if not allowed.images:
        log.add("image_omitted", where)
        out.append({"type": "text", "text": IMAGE_NOTE})
    elif image is part.get("image_url") and part.keys() == _IMAGE_KEYS:
        out.append(part)
    else:
        log.add("part_flattened", where)
        out.append({"type": "image_url", "image_url": image})


def _file(part: dict[str, Any], allowed: Allowed, where: str, log: RewriteLog, out: list[dict[str, Any]]) -> None:
    """Text in a file is text; of any other file only its name can be told."""
    inner = part.get("file")
    file: dict[str, Any] = inner if isinstance(inner, dict) else part
    name = file.get("filename") or file.get("title") or file.get("file_id") or "without a name"
    source = file.get("source")
    if isinstance(source, dict) and source.get("type") == "text" and isinstance(source.get("data"), str):
        log.add("part_flattened", where)
        out.append({"type": "text", "text": f"[file {name}]\n{source['data']}"})
        return
    if isinstance(source, dict) and source.get("type") == "content" and isinstance(source.get("content"), (str, list)):
        _text({"content": source["content"]}, allowed, where, log, out)
        return
    log.add("attachment_omitted", where)
    out.append({"type": "text", "text": f"[file {name} omitted: this model takes no files]"})


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def says_anything(content: Any) -> bool:
    """Whether content, in Mistral's form, holds anything that a tokenizer would write."""
    if isinstance(content, list):
        return any(part["type"] != "text" or part["text"] for part in content)
    return bool(content)


def joined(contents: list[Any]) -> Any:
    """Contents as mistral-common joins those of neighbours: texts with an empty line between."""
    said = [content for content in contents if content]
    if all(isinstance(content, str) for content in said):
        return JOIN.join(said)
    if len(said) == 1:
        return said[0]
    parts: list[dict[str, Any]] = []
    texts: list[str] = []  # of one text part that goes on from message to message
    for content in said:
        given = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for place, part in enumerate(given):
            if texts and (place or part["type"] != "text"):
                parts.append({"type": "text", "text": JOIN.join(texts)})
                texts = []
            if part["type"] == "text":
                texts.append(part["text"])
            else:
                parts.append(part)
    if texts:
        parts.append({"type": "text", "text": JOIN.join(texts)})
    return parts
