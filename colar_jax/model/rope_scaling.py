"""How rotary embeddings are stretched beyond the context that a model was trained on, each kind as data.

Every kind says what becomes of the plain inverse frequencies, what cosines and sines are multiplied by, and up to how
many positions it holds. The formulas are those of transformers' `modeling_rope_utils`.
"""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Llama-3's stretch of the low rotary frequencies (`rope_type: llama3` of a Hugging Face config).

    Frequencies whose wavelength exceeds the original context are divided by `factor`, the short wavelengths are left
    alone, and it blends in between.
    """

    factor: float = 32.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192

    amplitude = 1.0  # of cosines and sines
    most_positions = None  # beyond which it is not computed here

    def stretched(self, inverse_H: np.ndarray, theta: float) -> np.ndarray:
        """Inverse frequencies `[H / 2]` from the plain ones."""
        wavelength = 2 * np.pi / inverse_H
        low_wavelength = self.original_max_positions / self.low_freq_factor
        high_wavelength = self.original_max_positions / self.high_freq_factor
        blend = (self.original_max_positions / wavelength - self.low_freq_factor) / (
            self.high_freq_factor - self.low_freq_factor
        )
        blended = (1 - blend) * inverse_H / self.factor + blend * inverse_H
        scaled = np.where(wavelength > low_wavelength, inverse_H / self.factor, inverse_H)
        is_between = (wavelength <= low_wavelength) & (wavelength >= high_wavelength)
        return np.where(is_between, blended, scaled)


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """All positions divided by `factor` (`rope_type: linear`)."""

    factor: float

    amplitude = 1.0
    most_positions = None

    def stretched(self, inverse_H: np.ndarray, theta: float) -> np.ndarray:
        """Inverse frequencies `[H / 2]` from the plain ones."""
        return inverse_H / np.float32(self.factor)


@dataclasses.dataclass(frozen=True)
class DynamicScaling:
    """Plain within the original context; beyond it, frequencies depend on a row's length (`rope_type: dynamic`).

    What lies beyond is not computed: keys that are in a cache would have to be turned anew as a row grows.
    """

    factor: float
    original_max_positions: int

    amplitude = 1.0

    @property
    def most_positions(self) -> int:
        """Of the plain embeddings."""
        return self.original_max_positions

    def stretched(self, inverse_H: np.ndarray, theta: float) -> np.ndarray:
        """The plain ones."""
        return inverse_H


@dataclasses.dataclass(frozen=True)
class YarnScaling:
    """YaRN (arXiv 2309.00071; `rope_type: yarn`): slow pairs as `linear`, fast ones plain, a ramp between the two."""

    factor: float
    original_max_positions: int
    amplitude: float  # `attention_factor`
    beta_fast: float = 32.0  # turns within the original context, above which a pair stays plain
    beta_slow: float = 1.0  # below which it is divided by `factor`
    truncate: bool = True  # the ends of the ramp to whole pairs

    most_positions = None

    def stretched(self, inverse_H: np.ndarray, theta: float) -> np.ndarray:
        """Inverse frequencies `[H / 2]` from the plain ones."""
        num_pairs = len(inverse_H)
        ends = [self._pair_of(turns, 2 * num_pairs, theta) for turns in (self.beta_fast, self.beta_slow)]
        first, last = (math.floor(ends[0]), math.ceil(ends[1])) if self.truncate else ends
        first, last = max(first, 0), min(last, 2 * num_pairs - 1)
        last += 0.001 if first == last else 0.0
        ramp_H = np.clip((np.arange(num_pairs, dtype=np.float32) - first) / (last - first), 0, 1)
        return inverse_H / np.float32(self.factor) * ramp_H + inverse_H * (1 - ramp_H)

    def _pair_of(self, turns: float, head_dim: int, theta: float) -> float:
        """The pair of dimensions, as a real number, that turns so often within the original context."""
        return head_dim * math.log(self.original_max_positions / (turns * 2 * math.pi)) / (2 * math.log(theta))


Scaling = Llama3Scaling | LinearScaling | DynamicScaling | YarnScaling
