"""The ways to think that an exported folder has: what each feeds, and which files it needs.

A method says its way in `Thinking.way`; methods that think in words, or not at all, need not. A method whose thoughts
no exported file can make is refused.
"""

from colar_jax.errors import UserError
from colar_jax.methods.method import Thinking

(
    LATENT_HEAD,
    PROJECTION,
    HIDDEN_STATES,
    RESCALED_STATES,
    SWEPT,
    SUPERPOSITION,
    KHOT,
    CHOSEN_STOP,
    WORDS,
    NOTHING,
    OWN,
) = (
    "latent_head",
    "projection",
    "hidden_states",
    "rescaled_states",
    "swept",
    "superposition",
    "khot",
    "chosen_stop",
    "words",
    "nothing",
    "own",
)

# Way -> how the model card says it.
WAYS = {
    LATENT_HEAD: (
        "It reasons in compressed latent steps (CoLaR): a latent head predicts the next input embedding from the last "
        "hidden state, until the language head says `###`. `latent_head.safetensors` and `latent_head.json` hold that "
        "head; without them this is an ordinary language model, which loads with `transformers`."
    ),
    PROJECTION: (
        "It reasons in {num_thoughts} latents (CODI): each is the last hidden state, sent through a small network, and "
        "is fed as the next input. `projection.safetensors` and `projection.json` hold that network; without them this "
        "is an ordinary language model, which loads with `transformers`."
    ),
    HIDDEN_STATES: (
        "It reasons in {num_thoughts} latents: each is the last hidden state, fed as the next input as it is. There is "
        "no other weight than the language model's, which loads with `transformers`."
    ),
    RESCALED_STATES: (
        "It reasons in {num_thoughts} latents: each is the last hidden state at the size of an embedding (`embed_std` "
        "in `latent_head.json`), fed as the next input. The language model loads with `transformers`."
    ),
    SWEPT: (
        "It reasons in {num_thoughts} latents that it makes all at once, in a few passes (PCCoT): in each pass every "
        "latent is made of the hidden state that the pass before had in front of it, through a small network where "
        "`projection.safetensors` holds one. The language model loads with `transformers`."
    ),
    SUPERPOSITION: (
        "It reasons in latents that are mixtures of tokens: what its language head predicts is fed as "
        "`softmax(logits) E`, until `###` is the most probable token. There is no other weight than the language "
        "model's, which loads with `transformers`."
    ),
    KHOT: (
        "It reasons in latents that are mixtures of a few tokens: the likeliest ones of its language head (as many as "
        "`top_k` in `thinking.json`), each with its share, are fed as one embedding, until `###` is the most probable "
        "token. There is no other weight than the language model's, which loads with `transformers`."
    ),
    CHOSEN_STOP: (
        "It reasons in latents that are its last hidden state, sent through a small network where there is one "
        "(`projection.safetensors`), until it chooses to stop: `stop_choice.safetensors` has the two rows of that "
        "choice. Without them this is an ordinary language model, which loads with `transformers`."
    ),
    WORDS: "It reasons in words: the steps as text, then `###`, then the answer.",
    OWN: (
        "It reasons in latents that its method makes in a way of its own, from weights that lie here beside the "
        "language model's; `colar_torch.py` does not know how. The language model loads with `transformers`."
    ),
    NOTHING: "It does not reason: the answer follows the question at once.",
}


def way_of(thinking: Thinking, stage: str, *, has_modules: bool) -> str:
    """The way of a stage's method, one of `WAYS`; `OWN` for one whose modules (`has_modules`) go into the folder.

    Raises:
        UserError: no exported folder thinks like this.
    """
    way = thinking.way or (NOTHING if thinking.max_thoughts == 0 else WORDS if thinking.in_words else "")
    if way not in WAYS and has_modules:
        return OWN
    if way not in WAYS:
        raise UserError(
            f"--stage={stage}: its method makes its latents in a way of its own, which an exported folder cannot; what "
            f"can be exported feeds one of: {', '.join(WAYS)}"
        )
    return way
