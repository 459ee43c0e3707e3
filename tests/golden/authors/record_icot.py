"""Records what iCoT's own training script removes step by step, and its losses and gradient norms, on the small case.

    python tests/golden/authors/record_icot.py <folder of github.com/da03/Internalize_CoT_Step_by_Step>

The script runs as it is, at a learning rate of 0, one problem a step. Its separator is the tokenizer's eos.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch_case import EOS, VOCABULARY, gradient_norms, llama_folder, parameters_of, problems, under, write

EPOCHS, REMOVED_PER_EPOCH, ALL_BEYOND, SMOOTHING = 5, 2, 7, 0.7


def text_file(folder: Path) -> Path:
    """The problems as their data; `####` is a word that the tokenizer does not know, its token 0."""
    path = folder / "problems.txt"
    lines = []
    for problem in problems():
        question, chain, answer = (
            " ".join(f"t{token}" for token in part) for part in (problem.question, problem.chain(), problem.answer[:-1])
        )
        lines.append(f"{question}||{chain} #### {answer}\n")
    path.write_text("".join(lines))
    return path


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    sys.path.insert(0, f"{sys.argv[1]}/src")
    torch.set_num_threads(1)
    import model
    import train

    steps = []
    theirs = model.ImplicitModel.compute_loss

    def keep(self, input_ids, labels, **options):
        output = theirs(self, input_ids, labels, **options)
        assert (labels[input_ids != labels] == -100).all()
        steps.append({"ids": input_ids[0].numpy().astype(np.int32), "loss": np.array(output.loss.item(), np.float32)})
        if len(steps) in (1, 10):
            parameters = [*parameters_of(self.base_model, "llm")]
            steps[-1] |= gradient_norms(output.loss, parameters)
        return output

    model.ImplicitModel.compute_loss = keep
    train.evaluate = lambda *arguments, **options: (0.0, 0.0, 1.0)
    folder = Path(tempfile.mkdtemp())
    data = str(text_file(folder))
    sys.argv = [
        "train.py", f"--model={llama_folder(num_tokens=VOCABULARY)}", f"--train_path={data}", f"--val_path={data}",
        f"--epochs={EPOCHS}", "--lr=0", "--batch_size=1", f"--remove_per_epoch={REMOVED_PER_EPOCH}",
        f"--remove_all_when_remove_beyond={ALL_BEYOND}", f"--save_model={folder}", "--reset_optimizer",
    ]  # fmt: skip
    train.main()
    assert all(step["ids"][-1] == EOS for step in steps)
    out = {"settings": np.array([len(problems()), REMOVED_PER_EPOCH, ALL_BEYOND])}
    out["smoothing"] = train.compute_lambda_distribution(SMOOTHING)[:8].numpy()
    for number, step in enumerate(steps):
        out |= under(f"step{number}", step)
    write("icot", out)


if __name__ == "__main__":
    main()
