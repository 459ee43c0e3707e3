"""A Llama in plain NumPy and float64, one row at a time: what formulas of papers are computed with, apart from ours."""

import dataclasses

import numpy as np


@dataclasses.dataclass
class Pass:
    """One row through the model: of every layer its keys and values `[K, S, H]` and attention `[N, T, S]`."""

    states: list  # [T, D]: the embeddings, then after every layer; the last after the final norm
    keys: list  # after their rotary embedding
    values: list
    attention: list

    @property
    def hidden(self):
        return self.states[-1]


class PlainLlama:
    """Of parameters `{"llama": ..., "projection": ...}` as `reasoner.build` makes them."""

    def __init__(self, parameters, config, part: str = "llama"):
        self.config, self.parameters = config, _as_float64(parameters)
        self.llama = self.parameters[part]

    def embed(self, ids):
        return self.llama["embedding"][np.asarray(ids)]

    def run(self, embeds_TD, before: Pass | None = None) -> Pass:
        """A row, or what follows a row that was run before."""
        c, start = self.config, 0 if before is None else before.keys[0].shape[1]
        x, out = embeds_TD, Pass([embeds_TD], [], [], [])
        places = start + np.arange(len(x))
        for number in range(c.num_layers):
            layer = _layer(self.llama["blocks"], number)
            normed = self._norm(x, layer["attention_norm"]["scale"])
            q = self._turned(self._heads(normed @ layer["query"]["kernel"], c.num_heads), places)
            k = self._turned(self._heads(normed @ layer["key"]["kernel"], c.num_kv_heads), places)
            v = self._heads(normed @ layer["value"]["kernel"], c.num_kv_heads)
            if before is not None:
                k = np.concatenate([before.keys[number], k], axis=1)
                v = np.concatenate([before.values[number], v], axis=1)
            group = c.num_heads // c.num_kv_heads
            scores = np.einsum("nth,nsh->nts", q, np.repeat(k, group, axis=0)) / np.sqrt(c.head_dim)
            scores = np.where(np.arange(k.shape[1])[None] <= places[:, None], scores, -np.inf)
            attention = _softmax(scores)
            mixed = np.einsum("nts,nsh->tnh", attention, np.repeat(v, group, axis=0)).reshape(len(x), -1)
            x = x + mixed @ layer["out"]["kernel"]
            normed = self._norm(x, layer["mlp_norm"]["scale"])
            gate = normed @ layer["gate"]["kernel"]
            x = x + (gate / (1 + np.exp(-gate)) * (normed @ layer["up"]["kernel"])) @ layer["down"]["kernel"]
            out.states.append(x)
            out.keys.append(k)
            out.values.append(v)
            out.attention.append(attention)
        out.states[-1] = self._norm(x, self.llama["final_norm"]["scale"])
        return out

    def cross_entropies(self, hidden_TD, labels_T):
        """Of each label, from the hidden state before it."""
        head = self.llama.get("head", self.llama["embedding"])
        probabilities = _softmax(hidden_TD @ head.T)
        return -np.log(probabilities[np.arange(len(labels_T)), labels_T])

    def project(self, hidden_TD):
        """CODI's projection: linear, GELU with the error function, linear, LayerNorm."""
        p = self.parameters["projection"]
        x = hidden_TD @ p["first"]["kernel"] + p["first"]["bias"]
        x = x * 0.5 * (1 + _erf(x / np.sqrt(2)))
        x = x @ p["second"]["kernel"] + p["second"]["bias"]
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * p["norm_scale"] + p["norm_bias"]

    def _norm(self, x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + self.config.norm_eps) * scale

    def _heads(self, x, count: int):
        return x.reshape(len(x), count, -1).transpose(1, 0, 2)

    def _turned(self, x, places):
        half = self.config.head_dim // 2
        angles = places[:, None] / self.config.rope_theta ** (np.arange(half) / half)
        first, second = x[..., :half], x[..., half:]
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def smooth_l1(a, b):
    """Elementwise, with a threshold of 1."""
    error = np.abs(a - b)
    return np.where(error < 1, error**2 / 2, error - 0.5)


def _softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _erf(x):
    import math

    return np.vectorize(math.erf)(x)


def _layer(tree, number: int):
    return {k: _layer(v, number) if isinstance(v, dict) else v[number] for k, v in tree.items()}


def _as_float64(tree):
    return {k: _as_float64(v) if isinstance(v, dict) else np.asarray(v, np.float64) for k, v in tree.items()}
