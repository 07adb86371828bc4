"""Content blocks as the parts of chat messages: text and images, in their order.

What a chat message has no part for is told as text, or by a note in its place, and always by a named rewrite. A block
of a kind that is not known here becomes its own JSON, so that a client newer than this code goes on working.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from devstral_proxy.dialects.messages import checks
from devstral_proxy.mistral.json_text import dump
from devstral_proxy.mistral.rewrites import RewriteLog

Part = dict[str, Any]

BILLING_HEADER: Final = "x-anthropic-billing-header"
"""How a block begins that Claude Code puts before its system prompt for Anthropic's accounting."""

_TEXT_KEYS: Final = frozenset(("type", "text"))
_MARKINGS: Final = ("cache_control", "citations")


def parts_of(content: list[Any], where: str, log: RewriteLog) -> list[Part]:
    """The parts of a list of blocks. Raises BadRequest for what is no block."""
    parts: list[Part] = []
    for place, block in enumerate(content):
        add_block(block, f"{where}.{place}", log, parts)
    return parts


def add_block(block: Any, where: str, log: RewriteLog, out: list[Part]) -> None:
    """Append the parts that say what the block says. Raises BadRequest for what is no block."""
    kind = kind_of(block, where)
    translate = _KINDS.get(kind)
    if translate is not None:
        translate(block, f"{where}.{kind}", log, out)
    elif kind in ("server_tool_use", "mcp_tool_use"):
        _server_call(block, where, log, out)
    elif kind.endswith("_tool_result"):
        _server_result(block, where, log, out)
    else:
        log.add("part_flattened", where)
        out.append(text_part(dump(_without_markings(block))))


def kind_of(block: Any, where: str) -> str:
    """The block's type. Raises BadRequest for what is no block."""
    if not isinstance(block, dict):
        checks.wrong(where, "Input should be a valid dictionary")
    kind = block.get("type")
    if not isinstance(kind, str):
        checks.wrong(f"{where}.type", "Field required" if kind is None else "Input should be a valid string")
    return kind


def text_part(text: str) -> Part:
    """A part of plain text."""
    return {"type": "text", "text": text}


def content_of(parts: list[Part]) -> str | list[Part]:
    """Parts as a message's content: a sole text is the string that most chat clients send."""
    if not parts:
        return ""
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def note_markings(block: dict[str, Any], where: str, log: RewriteLog) -> None:
    """Name the keys that steer Anthropic's own cache and citations, and that nobody reads here."""
    for key in _MARKINGS:
        if block.get(key) is not None:
            log.add("key_dropped", f"{where}.{key}")


def without_billing(blocks: list[Any], where: str, log: RewriteLog) -> list[Any]:
    """System blocks without Claude Code's billing header.

    The header changes with each request, and with it all of the prompt would be new to vLLM's prefix cache.
    """
    kept: list[Any] = []
    for place, block in enumerate(blocks):
        text = block.get("text") if isinstance(block, dict) else None
        if isinstance(text, str) and text.startswith(BILLING_HEADER):
            rest = without_billing_line(text, f"{where}.{place}", log)
            if rest:
                kept.append({**block, "text": rest})
        else:
            kept.append(block)
    return kept


def without_billing_line(text: str, where: str, log: RewriteLog) -> str:
    """A system prompt without the header, which is its first line, or all of it."""
    if not text.startswith(BILLING_HEADER):
        return text
    log.add("billing_header", where)
    return text.partition("\n")[2].lstrip("\n")


def _text(block: dict[str, Any], where: str, log: RewriteLog, out: list[Part]) -> None:
    text = checks.text(block.get("text"), f"{where}.text")
    if block.keys() == _TEXT_KEYS:
        out.append(block)
        return
    note_markings(block, where, log)
    out.append(text_part(text))


def _image(block: dict[str, Any], where: str, log: RewriteLog, out: list[Part]) -> None:
    note_markings(block, where, log)
    source = checks.mapping(block.get("source"), f"{where}.source")
    kind = checks.text(source.get("type"), f"{where}.source.type")
    if kind == "base64":
        data = checks.text(source.get("data"), f"{where}.source.base64.data")
        media = checks.text(source.get("media_type"), f"{where}.source.base64.media_type")
        out.append({"type": "image_url", "image_url": {"url": f"data:{media};base64,{data}"}})
    elif kind == "url":
        out.append(
            {"type": "image_url", "image_url": {"url": checks.name(source.get("url"), f"{where}.source.url.url")}}
        )
    else:
        log.add("image_omitted", where)
        out.append(text_part("[image omitted: only Anthropic's own service holds it]"))


def _document(block: dict[str, Any], where: str, log: RewriteLog, out: list[Part]) -> None:
    """Text in a document is text; of a PDF only its name and what was said of it can be told."""
    note_markings(block, where, log)
    source = checks.mapping(block.get("source"), f"{where}.source")
    kind = checks.text(source.get("type"), f"{where}.source.type")
    title = block.get("title") if isinstance(block.get("title"), str) else ""
    context = block.get("context") if isinstance(block.get("context"), str) else ""
    head = f"[document {title}]" if title else "[document]"
    if kind == "text":
        log.add("part_flattened", where)
        data = checks.text(source.get("data"), f"{where}.source.text.data")
        out.append(text_part("\n".join(line for line in (head, context, data) if line)))
        return
    if kind == "content":
        log.add("part_flattened", where)
        content = source.get("content")
        inner = [text_part(content)] if isinstance(content, str) else checks.array(content, f"{where}.source.content")
        out.append(text_part(f"{head}\n{context}" if context else head))
        out += parts_of(inner, f"{where}.source.content", log)
        return
    log.add("attachment_omitted", where)
    named = [value for value in (title, source.get("url"), source.get("file_id")) if isinstance(value, str) and value]
    note = f"[document {' '.join(named) or 'without a name'} omitted: this model takes no files]"
    out.append(text_part(f"{note}\n{context}" if context else note))


def _search_result(block: dict[str, Any], where: str, log: RewriteLog, out: list[Part]) -> None:
    note_markings(block, where, log)
    log.add("part_flattened", where)
    title = checks.text(block.get("title"), f"{where}.title")
    source = checks.text(block.get("source"), f"{where}.source")
    found = parts_of(checks.array(block.get("content"), f"{where}.content"), f"{where}.content", log)
    texts = [part["text"] for part in found if part["type"] == "text"]
    out.append(text_part("\n".join((f"[search result {title}]", source, *texts))))
    out += [part for part in found if part["type"] != "text"]


def _upload(block: dict[str, Any], where: str, log: RewriteLog, out: list[Part]) -> None:
    log.add("attachment_omitted", where)
    out.append(text_part(f"[file {block.get('file_id')} omitted: this model takes no files]"))


def _tool_reference(block: dict[str, Any], where: str, log: RewriteLog, out: list[Part]) -> None:
    log.add("part_flattened", where)
    out.append(text_part(f"[tool {checks.text(block.get('tool_name'), f'{where}.tool_name')}]"))


def _compaction(block: dict[str, Any], where: str, log: RewriteLog, out: list[Part]) -> None:
    """The summary of what a server of Anthropic's has taken out; null: it failed, and nothing was taken out."""
    content = block.get("content")
    if not content or not isinstance(content, (str, list)):
        log.add("block_dropped", where)
        return
    log.add("part_flattened", where)
    out += [text_part(content)] if isinstance(content, str) else parts_of(content, f"{where}.content", log)


def _fallback(block: dict[str, Any], where: str, log: RewriteLog, out: list[Part]) -> None:
    """It marks the place where another model took over, and says nothing to a model."""
    log.add("block_dropped", where)


def _server_call(block: dict[str, Any], where: str, log: RewriteLog, out: list[Part]) -> None:
    log.add("server_tool_as_text", where)
    out.append(text_part(f"[call of {block.get('name')}]\n{dump(block.get('input'))}"))


def _server_result(block: dict[str, Any], where: str, log: RewriteLog, out: list[Part]) -> None:
    log.add("server_tool_as_text", where)
    content = _without_markings(block.get("content"))
    kind = str(block["type"]).removesuffix("_tool_result")
    out.append(text_part(f"[result of {kind}]\n{content if isinstance(content, str) else dump(content)}"))


def _without_markings(value: Any) -> Any:
    """A block without the members that only Anthropic's service can read."""
    if isinstance(value, list):
        return [_without_markings(inner) for inner in value]
    if isinstance(value, dict):
        return {
            key: _without_markings(inner)
            for key, inner in value.items()
            if key not in _MARKINGS and not key.startswith("encrypted")
        }
    return value


_KINDS: Final[dict[str, Callable[[dict[str, Any], str, RewriteLog, list[Part]], None]]] = {
    "text": _text,
    "image": _image,
    "document": _document,
    "search_result": _search_result,
    "container_upload": _upload,
    "tool_reference": _tool_reference,
    "compaction": _compaction,
    "fallback": _fallback,
}
