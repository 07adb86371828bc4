"""devstral-proxy: a format-translation reverse proxy between OpenAI clients and Mistral models on vLLM."""

__version__ = "0.1.0"
