"""Tool calls of assistant messages, and the pairing of calls with results.

The calls of one assistant turn and the results that follow them, up to the next assistant turn, form one exchange.
Within it results are paired by id, by the tail of the id (vLLM cuts ids to their last nine characters), by name and by
position; what is then left of the calls gets a placeholder, what is left of the results becomes user text. Nothing
here looks past the next assistant turn: what was once sent to the model stays as it was, and the prefix cache warm.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

import orjson

from devstral_proxy.errors import BadRequest
from devstral_proxy.mistral import tool_ids
from devstral_proxy.mistral.history import history_arguments
from devstral_proxy.mistral.names import ToolNames
from devstral_proxy.mistral.rewrites import RewriteLog

NO_RESULT: Final = "[no result: the call was interrupted]"
_CALL_KEYS: Final = frozenset(("id", "type", "function"))
_FUNCTION_KEYS: Final = frozenset(("name", "arguments"))
NO_IDS: Final = frozenset(("", "null", "None", "undefined"))


class Call:
    """One call of the open exchange: the client's id, ours, and the results that came for it."""

    __slots__ = ("given", "id", "name", "results")

    def __init__(self, given: str | None, mapped: str, name: str) -> None:
        self.given = given
        self.id = mapped
        self.name = name
        self.results: list[Result] = []


class Result:
    """One tool message: its place in the client's list, the id it names, and its content, already in Mistral's form."""

    __slots__ = ("content", "given", "images", "message", "name", "where")

    def __init__(self, message: dict[str, Any], content: str, images: list[dict[str, Any]], where: str) -> None:
        self.message = message
        self.content = content
        self.images = images
        self.where = where
        given = message.get("tool_call_id")
        self.given = given if isinstance(given, str) and given not in NO_IDS else None
        name = message.get("name")
        self.name = name if isinstance(name, str) and name else None


class CallTranslator:
    """Translates calls one assistant message after the other; counts them, so that a call without id gets one."""

    __slots__ = ("count", "log", "names")

    def __init__(self, names: ToolNames, log: RewriteLog) -> None:
        self.names = names
        self.log = log
        self.count = 0

    def translate(self, given: Any, where: str, taken: dict[str, int]) -> tuple[list[dict[str, Any]], list[Call]]:
        """The `tool_calls` of one message in Mistral's form, the given list where nothing changed, and their records.

        `taken` holds the ids of the same exchange: an id that repeats there is renamed by its occurrence (F15).
        Raises BadRequest for what is no list of calls.
        """
        if not isinstance(given, list):
            raise BadRequest("'tool_calls' must be an array.", param=where)
        calls: list[dict[str, Any]] = []
        records: list[Call] = []
        changed = False
        for index, call in enumerate(given):
            new, record = self._one(call, f"{where}[{index}]", taken)
            changed |= new is not call
            calls.append(new)
            records.append(record)
        return (calls if changed else given), records

    def _one(self, call: Any, where: str, taken: dict[str, int]) -> tuple[dict[str, Any], Call]:
        if not isinstance(call, dict):
            raise BadRequest("A tool call must be an object.", param=where)
        self.count += 1
        given, mapped = self._id(call, where, taken)
        function, name = self._function(call, where)
        record = Call(given, mapped, name)
        if (
            function is call.get("function")
            and mapped == call.get("id")
            and call.get("type") == "function"
            and call.keys() == _CALL_KEYS
        ):
            return call, record
        if not call.keys() <= _CALL_KEYS | {"custom"}:
            self.log.add("key_dropped", where)  # F01: the streamed `index`, and what SDKs add
        if call.get("type") != "function" and "custom" not in call:
            self.log.add("call_completed", where)
        return {"id": mapped, "type": "function", "function": function}, record

    def _id(self, call: dict[str, Any], where: str, taken: dict[str, int]) -> tuple[str | None, str]:
        given = call.get("id")
        if not isinstance(given, str) or given in NO_IDS:
            self.log.add("tool_call_id", where + ".id")
            given, mapped = None, tool_ids.hashed(f"call {self.count}")
        else:
            mapped = tool_ids.mapped(given)
            if mapped != given:
                self.log.add("tool_call_id", where + ".id")
        uses = taken.get(mapped, 0)
        taken[mapped] = uses + 1
        if uses:
            self.log.add("tool_call_id_repeated", where + ".id")
            renamed = tool_ids.hashed(f"{mapped}+{uses}")
            while renamed in taken:
                renamed = tool_ids.hashed(renamed)
            mapped = renamed
            taken[mapped] = 1
        return given, mapped

    def _function(self, call: dict[str, Any], where: str) -> tuple[dict[str, Any], str]:
        function = call.get("function")
        custom = call.get("custom")
        if not isinstance(function, dict) and isinstance(custom, dict):
            self.log.add("custom_call", where)  # a custom tool's free text is the one argument of its function
            function = {"name": custom.get("name"), "arguments": orjson.dumps({"input": custom.get("input")}).decode()}
        if not isinstance(function, dict):
            raise BadRequest("A tool call needs 'function'.", param=where + ".function")
        name = function.get("name")
        if not isinstance(name, str) or not name.strip():
            self.log.add("tool_name", where + ".function.name")
            name, valid = "unknown_tool", "unknown_tool"
        else:
            valid = self.names.mapped(name)
            if valid != name:
                self.log.add("tool_name", where + ".function.name")
        given = function.get("arguments")
        arguments, rewrite = history_arguments(given)
        if rewrite:
            self.log.add(rewrite, where + ".function.arguments")
        if valid == function.get("name") and arguments is given and function.keys() == _FUNCTION_KEYS:
            return function, name
        if not function.keys() <= _FUNCTION_KEYS:
            self.log.add("key_dropped", where + ".function")
        return {"name": valid, "arguments": arguments}, name


def pair(calls: list[Call], results: list[Result], earlier: set[str], log: RewriteLog) -> list[Result]:
    """Give each call its results; what no call claims is returned (F12, F14, F15).

    The rows are tried in turn, each over all results that are still free: the same id, the same id after somebody's
    cut or hash, the tool's name, and the position where as many calls as results are left. A result that names a call
    of an earlier exchange (`earlier`: their ids) has come too late, and belongs to none of these.
    """
    ids = [result.given for result in results]
    if None not in ids and ids == [call.given for call in calls]:
        for call, result in zip(calls, results, strict=True):
            call.results.append(result)
        return []
    free = _pair_by_id(calls, results, log)
    late = [result for result in free if result.given is not None and result.given in earlier]
    free = [result for result in free if result.given is None or result.given not in earlier]
    for keys_of_call, keys_of_result, unique in ((_tails, _tails_named, False), (_name, _name, True)):
        if free:
            free = _pair_by_key(calls, free, keys_of_call, keys_of_result, unique, log)
    waiting = [call for call in calls if not call.results]
    if free and (len(waiting) == len(free) or all(result.given is None for result in free)):
        for call, result in zip(waiting, free, strict=False):
            log.add("result_paired", result.where)
            call.results.append(result)
        free = free[len(waiting) :]
    return late + free


def _pair_by_id(calls: list[Call], results: list[Result], log: RewriteLog) -> list[Result]:
    waiting: dict[str, deque[Call]] = {}
    last: dict[str, Call] = {}
    for call in calls:
        if call.given is not None:
            waiting.setdefault(call.given, deque()).append(call)
            last[call.given] = call
    free = []
    for result in results:
        if result.given is None or result.given not in last:
            free.append(result)
        elif waiting[result.given]:  # ids that repeat are paired by position
            waiting[result.given].popleft().results.append(result)
        else:  # a result too many belongs to the last of them
            log.add("results_merged", result.where)
            last[result.given].results.append(result)
    return free


def _pair_by_key(
    calls: list[Call],
    results: list[Result],
    keys_of_call: Callable[[Any], Iterable[str]],
    keys_of_result: Callable[[Any], Iterable[str]],
    unique: bool,
    log: RewriteLog,
) -> list[Result]:
    """Pair by a shared key, in order; `unique`: only where one call alone has it. Returns what stays free."""
    waiting: dict[str, deque[Call]] = {}
    for call in calls:
        for key in keys_of_call(call) if not call.results else ():
            waiting.setdefault(key, deque()).append(call)
    free = []
    for result in results:
        found: Call | None = None
        for key in keys_of_result(result):
            line = waiting.get(key, deque())
            while line and line[0].results:
                line.popleft()
            if line and not (unique and len(line) > 1):
                found = line.popleft()
                break
        if found is None:
            free.append(result)
        else:
            log.add("result_paired", result.where)
            found.results.append(result)
    return free


def _tails(call: Call) -> Iterable[str]:
    tail = call.given[-tool_ids.LENGTH :] if call.given is not None and len(call.given) >= tool_ids.LENGTH else call.id
    return (call.id,) if tail == call.id else (call.id, tail)


def _tails_named(result: Result) -> Iterable[str]:
    given = result.given
    return () if given is None else (given,) if len(given) <= tool_ids.LENGTH else (given, given[-tool_ids.LENGTH :])


def _name(either: Call | Result) -> Iterable[str]:
    return () if either.name is None else (either.name,)
