"""A model behind an address: slots that are refilled while others think, and an API in OpenAI's form (docs/serving.md)."""
