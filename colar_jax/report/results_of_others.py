"""Numbers of other papers on the same base, each with the run that should give it: accuracy in % and #L."""

from colar_jax.report.published_results import GRADE_SCHOOL, LLAMA, Published

ALL_LINEAR = "query,key,value,out,gate,up,down"
_CODI: dict[str, object] = {
    "model.lora.rank": 128,
    "model.lora.alpha": 32.0,
    "model.lora.dropout": 0.1,
    "model.lora.targets": ALL_LINEAR,
    "codi.num_latents": 6,
    "codi.distill_weight": 20.0,
    "codi.normalise": True,
    "codi.teacher_last_step": False,
}


def _row(name: str, source: str, command: str, method: str, accuracies, length: float, **differs) -> Published:
    """Greedy accuracies on the first of the four sets, None where there is none, all at one #L."""
    cells = {
        dataset: (accuracy, length)
        for dataset, accuracy in zip(GRADE_SCHOOL, accuracies, strict=False)
        if accuracy is not None
    }
    return Published(name, command, LLAMA, "hub:gsm8k_aug", method, "-", cells, differs, "greedy", source)


def _codi(gamma: int, accuracies) -> Published:
    flags = "" if gamma == 20 else f" --config.stages.codi.codi.distill_weight={gamma}.0"
    flags += flags and f" --config.workdir=runs/gsm8k_codi_gamma_{gamma}"
    differs = _CODI | {"codi.distill_weight": float(gamma)}
    return _row(
        f"CODI, gamma={gamma}", "2502.21074", f"--config=configs/gsm8k_codi.py{flags}", "codi", accuracies, 6, **differs
    )


OF_OTHERS: tuple[Published, ...] = (
    _codi(20, (51.9, 12.8, 61.1, 96.1)),  # GSM8K from the table of gamma; its headline is higher
    _codi(1, (46.5,)),
    _codi(5, (50.2,)),
    _codi(30, (51.4,)),
)
