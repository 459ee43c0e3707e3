"""A model behind an address: slots that are refilled while others think, and OpenAI's API (docs/serving.md)."""
