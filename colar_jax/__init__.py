"""Reason silently, in compressed latent steps: CoLaR (arXiv 2505.16552) in JAX."""

__version__ = "0.1.0"
