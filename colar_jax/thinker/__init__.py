"""A trained stage to be asked: `colar_jax.load` makes a `Thinker` of a run, a stage, an exported folder or a hub id."""
