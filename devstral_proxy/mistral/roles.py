"""The roles that a message may have, as OpenAI's API has them."""

from __future__ import annotations

from operator import itemgetter
from typing import Any, Final

from devstral_proxy.errors import BadRequest

ROLES: Final = frozenset(("system", "developer", "user", "assistant", "tool", "function"))
_ROLE: Final = itemgetter("role")


def check_roles(messages: list[Any]) -> None:
    """Raise BadRequest for what is no message, or has no role that OpenAI's API knows."""
    try:
        if ROLES.issuperset(map(_ROLE, messages)):
            return
    except (KeyError, TypeError):
        pass
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise BadRequest("A message must be an object.", param=f"messages[{index}]")
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            known = "'system', 'developer', 'user', 'assistant', 'tool' or 'function'"
            raise BadRequest(f"A message's role must be {known}.", param=f"messages[{index}].role")
