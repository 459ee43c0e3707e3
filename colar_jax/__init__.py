"""Reason silently, in compressed latent steps: CoLaR (arXiv 2505.16552) in JAX."""

import os

__version__ = "0.1.0"

# Of transformers only the tokenizers are used; on import it would warn that PyTorch is missing.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
