"""Whatever comes in: a 400 that names a field, or a request, an answer and a record that can be used."""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from devstral_proxy.errors import BadRequest
from devstral_proxy.mistral.fold import fold
from tests.dialects.responses.help import TOOLS, dialect, stream, translated, whole
from tests.dialects.responses.test_request import CHOICES, FIELDS, ITEMS

ALL_ITEMS = [item for items, _ in ITEMS.values() for item in items]
JUNK: tuple[Any, ...] = (None, 1, "", [], {}, "x", True, [1], {"type": "x"}, -1.5, [None], "message", {"a": {}})


def damaged(value: Any, dice: random.Random) -> Any:
    """The value, here and there replaced or cut."""
    if dice.random() < 0.02:
        return dice.choice(JUNK)
    if isinstance(value, dict):
        return {key: damaged(inner, dice) for key, inner in value.items() if dice.random() > 0.01}
    if isinstance(value, list):
        return [damaged(inner, dice) for inner in value]
    return value


@settings(max_examples=300)
@given(st.integers(0, 2**32))
def test_junk(seed: int) -> None:
    dice = random.Random(seed)
    body: dict[str, Any] = {"model": "m", "input": dice.sample(ALL_ITEMS, 3), "tools": TOOLS}
    for fields, _ in dice.sample(FIELDS, 2):
        body.update(fields)
    body["tool_choice"] = dice.choice(CHOICES)[0]
    body = {key: damaged(value, dice) for key, value in body.items()}
    made = dialect()
    refused = None
    try:
        translated(made.request(body))
    except BadRequest as error:
        refused = made.error(error)["error"]
    if refused is not None:
        assert refused["param"]
        return
    response = made.body(fold(stream({"content": "x"})))
    json.dumps(made.record)
    again = dialect(previous=[*made.input_items, *response["output"]])
    translated(again.request({"model": "m", "input": "on", "previous_response_id": made.id}))


def test_a_plain_response_is_typed() -> None:
    made = dialect()
    made.request({"model": "m", "input": ALL_ITEMS, "tools": TOOLS})
    whole(made.body(fold(stream({"content": "x"}))))
