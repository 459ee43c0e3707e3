"""Trimming: a verifier watches chains of thought grow, and ends those that have found their answer."""
