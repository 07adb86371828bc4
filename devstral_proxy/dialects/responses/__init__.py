"""The OpenAI Responses API in terms of chat completions."""

from devstral_proxy.dialects.responses.dialect import Responses
from devstral_proxy.dialects.responses.ids import response_of
from devstral_proxy.dialects.responses.references import references

__all__ = ["Responses", "references", "response_of"]
