"""A model's output as vLLM's engine gives it: token by token, cut by max_tokens and by stop strings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from devstral_proxy.simulator.tokenizers import Detokenizer, ModelTokenizer


@dataclass(slots=True)
class Step:
    """What one step of the engine adds to a choice. `finish`: only the last has one."""

    ids: list[int]
    text: str
    finish: str | None = None
    stop: str | None = None


def steps(
    ids: Sequence[int],
    tokenizer: ModelTokenizer,
    *,
    shown: frozenset[str],
    max_tokens: int,
    stops: Sequence[str] = (),
    keep_stop: bool = False,
    finish: str | None = None,
) -> Iterator[Step]:
    """The steps of one choice.

    ids: the output without its end token; an end token in it ends it. `shown`: see Detokenizer. `finish`: the
    finish reason to tell when the output comes to its end, else "stop".
    """
    detokenizer = Detokenizer(tokenizer, shown)
    held = 0 if keep_stop else max((len(stop) for stop in stops), default=1) - 1
    whole, given = "", 0
    for count, number in enumerate([*ids, tokenizer.eos], start=1):
        before = len(whole)
        last = number == tokenizer.eos
        if not last:
            whole += detokenizer.feed(number)
        stop = _stopped(whole, before, stops)
        if stop is not None:
            at, text = stop
            yield Step([number], whole[given : at + (len(text) if keep_stop else 0)], "stop", text)
            return
        if last or count >= max_tokens:
            yield Step([number], whole[given:], (finish or "stop") if last else "length")
            return
        end = max(len(whole) - held, given)
        yield Step([number], whole[given:end])
        given = end


def _stopped(whole: str, before: int, stops: Sequence[str]) -> tuple[int, str] | None:
    """The first stop string, in the order of the request, that the newest characters complete."""
    for text in stops:
        at = whole.find(text, max(0, before - len(text) + 1))
        if at >= 0 and len(whole) > before:
            return at, text
    return None


def merged(source: Iterator[Step], size: int) -> Iterator[Step]:
    """`size` tokens a step, as under load; 0: all in one."""
    pending: Step | None = None
    for step in source:
        if pending is not None:
            step = Step(pending.ids + step.ids, pending.text + step.text, step.finish, step.stop)
        pending = step
        if step.finish is not None or len(step.ids) == size:
            yield step
            pending = None
