"""openai-python, Responses: streamed turns that go on from the stored ones, then a whole and a parsed one.

Each event is checked against its type, and its number against the one before.
"""

from __future__ import annotations

import json
from typing import Any

from openai import OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from qa.clients.sdk.tools import BASE_URL, FUNCTIONS, MODEL, PICTURE, STEPS, TASK, schema_of

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


class Verdict(BaseModel):
    done: bool
    note: str


def main() -> None:
    """The task, then two questions without tools. Raises what the SDK raises."""
    client = OpenAI(base_url=BASE_URL + "/v1", api_key="unused")
    tools: list[Any] = [
        {"type": "function", "name": name, "description": name, "parameters": schema_of(name), "strict": True}
        for name in FUNCTIONS
    ]
    turn: Any = TASK
    if PICTURE:
        parts = [{"type": "input_text", "text": TASK}, {"type": "input_image", "image_url": PICTURE, "detail": "auto"}]
        turn = [{"role": "user", "content": parts}]
    previous: str | None = None
    for _ in range(STEPS):
        number = -1
        with client.responses.stream(
            model=MODEL, input=turn, tools=tools, instructions="You are a helper.", previous_response_id=previous
        ) as stream:
            for event in stream:
                EVENTS.validate_python(event.to_dict())
                assert event.sequence_number > number
                number = event.sequence_number
            response = stream.get_final_response()
        Response.model_validate(response.to_dict())
        assert response.status == "completed"
        assert response.usage is not None
        assert response.usage.input_tokens > 0
        previous = response.id
        calls = [item for item in response.output if item.type == "function_call"]
        if not calls:
            print(response.output_text)
            break
        turn = [
            {
                "type": "function_call_output",
                "call_id": call.call_id,
                "output": FUNCTIONS[call.name](**json.loads(call.arguments)),
            }
            for call in calls
        ]
    whole = client.responses.create(model=MODEL, input="Your verdict?", previous_response_id=previous)
    Response.model_validate(whole.to_dict())
    kept = client.responses.retrieve(whole.id)
    assert kept.output_text == whole.output_text
    parsed = client.responses.parse(model=MODEL, input="Your verdict?", text_format=Verdict, store=False)
    print(parsed.output_parsed)


if __name__ == "__main__":
    main()
