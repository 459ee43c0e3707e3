"""The methods by name. A new one is one file beside these, and one line here."""

from colar_jax.methods.coconut import COCONUT
from colar_jax.methods.codi import CODI
from colar_jax.methods.colar import COLAR
from colar_jax.methods.cot import COT
from colar_jax.methods.icot import ICOT
from colar_jax.methods.method import Method
from colar_jax.methods.no_cot import NO_COT

METHODS: dict[str, Method] = {
    "no_cot": NO_COT,
    "cot": COT,
    "colar": COLAR,
    "icot": ICOT,
    "coconut": COCONUT,
    "codi": CODI,
}
