"""What a simulator is made with, and what its scripts give back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

TokenizerVersion = Literal["v3", "v7", "v11", "v13", "v15"]
TOKENIZER_VERSIONS: tuple[TokenizerVersion, ...] = ("v3", "v7", "v11", "v13", "v15")


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call that the model makes. `arguments`: an object, or the model's own text where it is no good JSON."""

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Turn:
    """What the model puts out in one answer.

    `reasoning`, `text` and `calls` are written in the form of the tokenizer version at hand. `raw` replaces all three:
    the model's output as it stands, either one text in which the spellings of control tokens (`[TOOL_CALLS]`,
    `[ARGS]`, `[THINK]`, …) are those tokens, or a sequence of pieces where only a piece that is such a spelling, all
    of it, is the token (so that text can spell a marker without being one), and where a number is a token's id.
    `finish_reason` other than "stop" is told in place of the one that came out ("length", "abort").
    """

    text: str = ""
    calls: tuple[Call, ...] = ()
    reasoning: str = ""
    raw: str | tuple[str | int, ...] | None = None
    finish_reason: str | None = None


Script = Callable[[dict[str, Any]], Turn]


@dataclass(frozen=True, slots=True)
class SimulatorOptions:
    """The stand-in's settings.

    tokenizer       the tokenizer's version: its rules are mistral-common's own
    model           the name that requests must give; `root` is what /v1/models says it is made of
    version         the vLLM release to be, "0.32.0" and "0.12.0" were measured; others behave as the nearer of the two
    max_model_len   the context, in tokens
    images          the model takes images
    reasoning       a reasoning parser runs: `[THINK]` goes to `reasoning` instead of the text
    api_key         as `--api-key`: other keys get 401
    script          what the model says: the request's JSON in, a Turn out; None: the agent conversation of script.py
    delay           seconds before every chunk
    merge           tokens a chunk, as under load or with speculative decoding; 0: the whole answer in one
    keep            how many accepted requests are remembered (state.requests, GET /_simulator/requests)
    """

    tokenizer: TokenizerVersion = "v13"
    model: str = "devstral-small-2"
    root: str = "mistralai/Devstral-Small-2-24B-Instruct-2512"
    version: str = "0.32.0"
    max_model_len: int = 131072
    images: bool = False
    reasoning: bool = False
    api_key: str | None = None
    script: Script | None = None
    delay: float = 0.0
    merge: int = 1
    keep: int = 32
