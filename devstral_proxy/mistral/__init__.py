"""OpenAI ⇄ Mistral, sans-IO: pure functions and generators over dicts. `Translator` is the way in."""

from devstral_proxy.mistral.translator import Translator

__all__ = ["Translator"]
