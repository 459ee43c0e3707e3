"""A reward that an untrained model gets in parts, so that every group has something to tell apart."""


def fewer_latents_and_longer_answers(problems, answers, num_latents):
    return [len(answer) - 0.5 * length for answer, length in zip(answers, num_latents, strict=True)]
