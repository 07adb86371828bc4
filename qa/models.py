"""The models that the regression suite's own upstream serves, and the profiles by which the proxy knows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, get_args

from devstral_proxy.mistral.profiles import TokenizerVersion
from qa.golden_requests import MAX_MODEL_LEN

TOKENIZERS: Final[tuple[TokenizerVersion, ...]] = get_args(TokenizerVersion)
SMALL: Final = "case-small"
"""A model with so short a context that a test can overflow it."""


@dataclass(frozen=True)
class Served:
    """What one model is."""

    tokenizer: TokenizerVersion
    images: bool = False
    reasoning: bool = False
    max_model_len: int = MAX_MODEL_LEN

    @property
    def name(self) -> str:
        return "-".join(
            ["case", self.tokenizer, *["images"] * self.images, *["reasoning"] * self.reasoning],
        )

    @property
    def profile(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer, "images": self.images, "reasoning": self.reasoning}


MODELS: Final[dict[str, Served]] = {
    **{served.name: served for tokenizer in TOKENIZERS for served in (Served(tokenizer), Served(tokenizer, True))},
    **{served.name: served for served in (Served("v13", reasoning=True), Served("v15", reasoning=True))},
    SMALL: Served("v13", max_model_len=600),
}
PROFILES: Final[dict[str, dict[str, Any]]] = {name: served.profile for name, served in MODELS.items()}
"""MODEL_PROFILES for them."""
