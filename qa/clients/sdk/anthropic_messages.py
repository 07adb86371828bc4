"""anthropic-python: streamed turns, a count of tokens, the tool runner. Each event is checked against its type."""

from __future__ import annotations

from typing import Any

import anthropic
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from qa.clients.sdk.tools import BASE_URL, FUNCTIONS, MODEL, PICTURE, STEPS, TASK, schema_of

EVENTS: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
RAW = {
    "message_start", "message_delta", "message_stop", "content_block_start", "content_block_delta", "content_block_stop"
}  # fmt: skip


@anthropic.beta_tool
def read_file(path: str) -> str:
    """Read a file.

    Args:
        path: the file's path
    """
    return FUNCTIONS["read_file"](path)


def main() -> None:
    """The task, then the same tool by the SDK's own runner. Raises what the SDK raises."""
    client = anthropic.Anthropic(base_url=BASE_URL, api_key="unused")
    tools: list[Any] = [{"name": name, "description": name, "input_schema": schema_of(name)} for name in FUNCTIONS]
    content: Any = TASK
    if PICTURE:
        source = {"type": "base64", "media_type": "image/png", "data": PICTURE.partition(",")[2]}
        content = [{"type": "text", "text": TASK}, {"type": "image", "source": source}]
    messages: list[Any] = [{"role": "user", "content": content}]
    counted = client.messages.count_tokens(model=MODEL, messages=messages, tools=tools, system="You are a helper.")
    assert counted.input_tokens > 0
    for _ in range(STEPS):
        with client.messages.stream(
            model=MODEL, max_tokens=2048, messages=messages, tools=tools, system="You are a helper."
        ) as stream:
            for event in stream:
                if event.type in RAW:
                    EVENTS.validate_python(event.to_dict())
            message = stream.get_final_message()
        Message.model_validate(message.to_dict())
        assert message.usage.output_tokens > 0
        messages.append({"role": "assistant", "content": message.content})
        uses = [block for block in message.content if block.type == "tool_use"]
        if message.stop_reason != "tool_use":
            print("".join(block.text for block in message.content if block.type == "text"))
            break
        results = []
        for use in uses:
            arguments: Any = use.input
            results.append({"type": "tool_result", "tool_use_id": use.id, "content": FUNCTIONS[use.name](**arguments)})
        messages.append({"role": "user", "content": results})
    whole = client.messages.create(model=MODEL, max_tokens=512, messages=messages[:1])
    Message.model_validate(whole.to_dict())
    runner = client.beta.messages.tool_runner(
        model=MODEL, max_tokens=512, tools=[read_file], messages=[{"role": "user", "content": TASK}]
    )
    print(runner.until_done().stop_reason)


if __name__ == "__main__":
    main()
