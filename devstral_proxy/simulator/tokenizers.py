"""The Mistral tokenizers v3 to v15, made from what the mistral-common package ships.

All are tekken_240911: v3 and v7 as it stands, v11, v13 and v15 with the control tokens of the later models
written in the way Mistral's own releases have them: ids 0 to 35 are theirs. (The package also ships SentencePiece
models of v3 and v7; they need one more dependency, and the rules of a version are the same for both.)
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mistral_common
from mistral_common.protocol.instruct.validator import ValidationMode
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy, TokenizerVersion
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from devstral_proxy.simulator.options import TokenizerVersion as Version

_TEKKEN = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"

# fmt: off
_CONTROL = [
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
    "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", "<SPECIAL_20>", "<SPECIAL_21>",
    "<SPECIAL_22>", "<SPECIAL_23>", "[AUDIO]", "[BEGIN_AUDIO]", "<SPECIAL_26>", "<SPECIAL_27>", "<SPECIAL_28>",
    "<SPECIAL_29>", "<SPECIAL_30>", "<SPECIAL_31>", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]",
]
# fmt: on
_CONTROL_V15 = ["[MODEL_SETTINGS]", "[/MODEL_SETTINGS]"]
_MODEL_SETTINGS = {
    "reasoning_effort": {"type": "enum", "accepts_none": True, "default": "none", "values": ["none", "high"]}
}
_IMAGE = {"image_patch_size": 14, "max_image_size": 1540, "spatial_merge_size": 2}
# Markers that a dictated output may hold. `</s>` ends it.
MARKERS = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]", "</s>")


class ModelTokenizer:
    """One tokenizer: mistral-common's, with the few lookups that a server needs."""

    def __init__(self, mistral: MistralTokenizer[Any, Any, Any, Any, Any], version: Version) -> None:
        self.mistral = mistral
        self.version = version
        self.number = int(version[1:])
        self.inner: Any = mistral.instruct_tokenizer.tokenizer
        self.eos: int = self.inner.eos_id
        self.size: int = self.inner.n_words
        special = {self.inner.id_to_piece(number): number for number in range(self.inner.num_special_tokens)}
        self.markers = {marker: special[marker] for marker in MARKERS if marker in special}
        self.spellings = special
        self.spelled = {number: marker for marker, number in self.markers.items()}

    def encode(self, text: str, *, bos: bool = False) -> list[int]:
        ids: list[int] = self.inner.encode(text, bos=bos, eos=False)
        return ids

    def is_special(self, number: int) -> bool:
        """Whether the id is a control token."""
        return bool(number < self.inner.num_special_tokens)

    def text(self, ids: Sequence[int], *, keep: bool = True) -> str:
        """The ids as text, control tokens spelled out (`keep`) or left out."""
        policy = SpecialTokenPolicy.KEEP if keep else SpecialTokenPolicy.IGNORE
        decoded: str = self.inner.decode(list(ids), special_token_policy=policy)
        return decoded

    def piece(self, number: int) -> str:
        """The token's own spelling, as logprobs show it."""
        spelled: str = self.inner.id_to_piece(number)
        return spelled

    def split(self, raw: str | Sequence[str | int]) -> list[int]:
        """The ids of a dictated output (Turn.raw)."""
        pieces: Iterator[str | int] = self._cut(raw) if isinstance(raw, str) else iter(raw)
        return [number for piece in pieces for number in ([piece] if isinstance(piece, int) else self._ids(piece))]

    def _ids(self, piece: str) -> list[int]:
        marker = self.markers.get(piece)
        return [marker] if marker is not None else self.encode(piece) if piece else []

    def _cut(self, raw: str) -> Iterator[str]:
        while raw:
            starts = [(raw.find(marker), marker) for marker in self.markers if marker in raw]
            if not starts:
                break
            start, marker = min(starts)
            yield raw[:start]
            yield marker
            raw = raw[start + len(marker) :]
        yield raw


class Detokenizer:
    """Tokens in, text out as soon as it is whole: while a character is not, the tokens that it began in wait with it.

    `shown`: the markers that come out as text, as with vLLM's skip_special_tokens; other control tokens say nothing.
    """

    def __init__(self, tokenizer: ModelTokenizer, shown: frozenset[str]) -> None:
        self._tokenizer = tokenizer
        self._shown = {tokenizer.markers[marker] for marker in shown if marker in tokenizer.markers}
        self._bytes = b""

    def feed(self, number: int) -> str:
        if number in self._shown:
            self._bytes = b""
            return self._tokenizer.spelled[number]
        if self._tokenizer.is_special(number):
            return ""
        self._bytes += self._tokenizer.inner.id_to_byte_piece(number, SpecialTokenPolicy.KEEP)
        text = self._bytes.decode("utf-8", errors="replace")
        if text.endswith("\ufffd"):
            return ""
        self._bytes = b""
        return text


def load(version: Version, images: bool = False) -> ModelTokenizer:
    """The tokenizer of that version, loaded once a process.

    Raises ValueError where the installed mistral-common is too old to know the version.
    """
    return _load(version, images)


@functools.cache
def _load(version: Version, images: bool) -> ModelTokenizer:
    if version not in TokenizerVersion.__members__:
        raise ValueError(f"mistral-common {mistral_common.__version__} has no tokenizer {version}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tekken.json"
        path.write_text(json.dumps(_tekken(version, images)), encoding="utf-8")
        return ModelTokenizer(MistralTokenizer.from_file(str(path), mode=ValidationMode.test), version)


def _tekken(version: Version, images: bool) -> dict[str, Any]:
    tekken: dict[str, Any] = json.loads(_TEKKEN.read_text(encoding="utf-8"))
    config = tekken["config"]
    config["version"] = version
    count = config["default_num_special_tokens"]
    tekken["vocab"] = tekken["vocab"][: config["default_vocab_size"] - count]
    tekken["type"], tekken["version"] = "Tekken", int(version[1:])
    for key in ("image", "multimodal", "special_tokens"):
        tekken.pop(key, None)
    if int(version[1:]) >= 11:
        names = _CONTROL + (_CONTROL_V15 if version == "v15" else [])
        names = names + [f"<SPECIAL_{number}>" for number in range(len(names), count)]
        tekken["special_tokens"] = [
            {"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(names)
        ]
    if images:
        tekken["image"] = dict(_IMAGE)
    if version == "v15":
        tekken["model_settings_builder"] = _MODEL_SETTINGS
    return tekken
