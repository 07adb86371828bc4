"""What Anthropic's API refuses: the checks, and its words for them.

Paths are written as Anthropic writes them: members and places joined by dots, and the kind of a block or tool between,
as in `messages.2.content.0.tool_use.id`.
"""

from __future__ import annotations

from typing import Any, NoReturn

from devstral_proxy.errors import BadRequest


def wrong(where: str, says: str) -> NoReturn:
    """Raise the BadRequest for the field at `where`."""
    raise BadRequest(says, param=where)


def text(value: Any, where: str) -> str:
    """The value, which has to be a string."""
    if not isinstance(value, str):
        wrong(where, "Field required" if value is None else "Input should be a valid string")
    return value


def name(value: Any, where: str) -> str:
    """The value, which has to be a string that is not empty."""
    if text(value, where) == "":
        wrong(where, "String should have at least 1 character")
    return str(value)


def mapping(value: Any, where: str) -> dict[str, Any]:
    """The value, which has to be an object."""
    if not isinstance(value, dict):
        wrong(where, "Field required" if value is None else "Input should be a valid dictionary")
    return value


def array(value: Any, where: str) -> list[Any]:
    """The value, which has to be an array."""
    if not isinstance(value, list):
        wrong(where, "Field required" if value is None else "Input should be a valid list")
    return value


def boolean(value: Any, where: str) -> bool:
    """The value, which has to be true or false."""
    if not isinstance(value, bool):
        wrong(where, "Input should be a valid boolean")
    return value


def integer(value: Any, where: str, least: int) -> int:
    """The value, which has to be an integer of at least `least`."""
    if value is None:
        wrong(where, "Field required")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        wrong(where, "Input should be a valid integer")
    if value < least:
        wrong(where, f"Input should be greater than or equal to {least}")
    return value


def number(value: Any, where: str, low: float, high: float) -> float:
    """The value, which has to be a number between `low` and `high`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        wrong(where, "Input should be a valid number")
    if value < low:
        wrong(where, f"Input should be greater than or equal to {low:g}")
    if value > high:
        wrong(where, f"Input should be less than or equal to {high:g}")
    return value


def one_of(value: Any, where: str, known: tuple[str, ...]) -> str:
    """The value, which has to be one of the known words."""
    if value is None:
        wrong(where, "Field required")
    if value not in known:
        *most, last = (f"'{word}'" for word in known)
        wrong(where, f"Input should be {', '.join(most)} or {last}")
    return str(value)
