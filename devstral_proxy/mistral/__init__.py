"""OpenAI ⇄ Mistral, sans-IO: pure functions and generators over dicts."""
