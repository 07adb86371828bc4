"""openai-python, chat completions: streamed turns, then a whole one and a parsed one.

Each chunk is checked against its type.
"""

from __future__ import annotations

import json
from typing import Any

import openai
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from qa.clients.sdk.tools import BASE_URL, FUNCTIONS, MODEL, PICTURE, STEPS, TASK


class ReadFile(BaseModel):
    path: str


class WriteFile(BaseModel):
    path: str
    content: str


class EditFile(BaseModel):
    path: str
    old_string: str
    new_string: str


class Bash(BaseModel):
    command: str


class Verdict(BaseModel):
    done: bool
    note: str


MODELS: dict[str, type[BaseModel]] = {
    "read_file": ReadFile, "write_file": WriteFile, "edit_file": EditFile, "bash": Bash
}  # fmt: skip


def main() -> None:
    """The task, then two questions without tools. Raises what the SDK raises."""
    client = OpenAI(base_url=BASE_URL + "/v1", api_key="unused")
    tools = [openai.pydantic_function_tool(model, name=name) for name, model in MODELS.items()]
    content: Any = TASK
    if PICTURE:
        content = [{"type": "text", "text": TASK}, {"type": "image_url", "image_url": {"url": PICTURE}}]
    messages: list[Any] = [{"role": "developer", "content": "You are a helper."}, {"role": "user", "content": content}]
    for _ in range(STEPS):
        with client.chat.completions.stream(
            model=MODEL,
            messages=messages,
            tools=tools,
            parallel_tool_calls=True,
            stream_options={"include_usage": True},
        ) as stream:
            for event in stream:
                if event.type == "chunk":
                    ChatCompletionChunk.model_validate(event.chunk.to_dict())
            completion = stream.get_final_completion()
        assert completion.usage is not None
        assert completion.usage.prompt_tokens > 0
        message = completion.choices[0].message
        messages.append(message)  # the idiom of the SDK's documentation: the object goes back as it is
        if not message.tool_calls:
            print(message.content)
            break
        for call in message.tool_calls:
            arguments = json.loads(call.function.arguments)
            MODELS[call.function.name].model_validate(arguments)
            result = FUNCTIONS[call.function.name](**arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    whole = client.chat.completions.create(model=MODEL, messages=messages, tools=tools, n=1, seed=1, user="u")
    ChatCompletion.model_validate(whole.to_dict())
    question: Any = {"role": "user", "content": "Your verdict?"}
    parsed = client.chat.completions.parse(model=MODEL, messages=[*messages, question], response_format=Verdict)
    print(parsed.choices[0].message.parsed)


if __name__ == "__main__":
    main()
