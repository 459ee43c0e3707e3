"""Trimmed rows of a sweep: a verifier that is never satisfied, budgets, other verifiers, and where chains end."""

import runpy
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers
import transformers
from pipeline.test_base import make_base
from tokenizers import decoders, models, pre_tokenizers

from colar_jax.config import Config, resolve
from colar_jax.data.tokenizers import load_tokenizer
from colar_jax.decoding.chunks import Glimpse
from colar_jax.decoding.decoder import Decoded
from colar_jax.errors import UserError
from colar_jax.evaluation.decode_program import Programs, Variation
from colar_jax.evaluation.trimming import trimmed
from colar_jax.evaluation.trimming.trimmed import TrimPrograms, _Compiled
from colar_jax.evaluation.trimming.wording import Asked, Inquiry
from colar_jax.report.files import read_report
from colar_jax.runs.run import prepare
from colar_jax.runs.starts import adopt, default_stage
from colar_jax.runs.sweep.sweep import sweep
from colar_jax.runs.trim_verifier import trim_source
from colar_jax.settings import TrimConfig

CONFIG_FILE = Path(__file__).parents[2] / "configs" / "math_trimr.py"
LIMIT = 8
TINY = {
    "data.train_limit": 8,
    "data.num_val": 4,
    "data.num_test": 6,
    "decode.max_step_tokens": LIMIT,
    "decode.max_answer_tokens": 3,
    "eval.batch_size": 4,
    "eval.trim.chunk": 3,
    "eval.trim.budget_share": 0.0,
}
NEVER = {"eval.trim.agreements": "1000"}


def config_of(workdir: Path, **overrides) -> Config:
    """The smoke run of configs/math_trimr.py, smaller still."""
    config = runpy.run_path(str(CONFIG_FILE))["get_config"]("smoke")
    config.update_from_flattened_dict(TINY | {"workdir": str(workdir)} | overrides)
    return resolve(config)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run whose stages have their initial weights, made large enough to say different things."""
    workdir = tmp_path_factory.mktemp("trim") / "run"
    run = prepare(config_of(workdir))
    for stage in run.config.stage_names:
        adopt(run, stage, jax.tree.map(lambda leaf: 4 * leaf if leaf.ndim else leaf, run.initial_parameters()))
    return workdir


def rows_of(results) -> dict:
    return {(result.trim, result.sampling): result for result in results}


def assert_same(one, other):
    for name in ("right_SN", "lengths_SN", "forced_stops_SN"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.slow
def test_a_verifier_that_is_never_satisfied_changes_nothing(workdir, tmp_path):
    results = sweep([config_of(workdir, **NEVER)], tmp_path / "out")
    assert {result.stage for result in results} == {"cot"}, "a judge answers no problems"
    rows = rows_of(results)
    assert rows.keys() == {(trim, sampling) for trim in ("-", "1000") for sampling in ("greedy", "sampled")}
    for sampling in ("greedy", "sampled"):
        assert_same(rows["1000", sampling], rows["-", sampling])
        assert rows["1000", sampling].cost.forward_passes == rows["-", sampling].cost.forward_passes
        assert rows["1000", sampling].mean_of("discarded_thoughts") == 0
    assert "trimmed at 1000" in rows["1000", "greedy"].way.name
    report = read_report(tmp_path / "out")
    assert {row["trim"] for row in report["results"]} == {"-", "1000"}
    assert {
        row["reference"]["trim"] if isinstance(row["reference"], dict) else "-" for row in report["differences"]
    } == {"-"}
    assert "verifier's passes" in (tmp_path / "out" / "report.md").read_text()
    assert default_stage(prepare(config_of(workdir), sets="none")) == "cot"


@pytest.mark.slow
def test_a_budget_ends_chains_as_a_smaller_limit_does(workdir, tmp_path):
    settings = {"eval.seeds": 0, "eval.word_budgets": str(LIMIT // 2), "eval.trim.verifier": ""}
    (short,) = sweep([config_of(workdir, **settings)], tmp_path / "half")
    assert short.trim == "-"
    settings = NEVER | {"eval.seeds": 0, "eval.trim.budget_share": 0.5}
    row = rows_of(sweep([config_of(workdir, **settings)], tmp_path / "out"))["1000", "greedy"]
    np.testing.assert_array_equal(row.right_SN, short.right_SN)
    np.testing.assert_array_equal(row.lengths_SN, short.lengths_SN)
    assert row.mean_of("cut_without_agreement") == short.forced_stop_share > 0
    more = row.mean_of("discarded_thoughts")
    assert more > 0 and row.cost.forward_passes == pytest.approx(short.cost.forward_passes + more)


@pytest.mark.slow
def test_a_sweep_decodes_again_only_what_another_verifier_changes(workdir, tmp_path):
    def num_decoded(**overrides):
        sweep([config_of(workdir, **NEVER | {"eval.greedy": True, "eval.seeds": 0} | overrides)], tmp_path / "out")
        timing = read_report(tmp_path / "out").get("timing")
        return timing["num_decoded"] if timing else 0

    assert num_decoded() == 12
    assert num_decoded() == 0
    assert num_decoded(**{"eval.trim.max_segments": 5}) == 6  # the plain row is as it was


def byte_level(folder: Path) -> None:
    """A tokenizer that reads any text, a byte a token, and has no `###`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {sign: number for number, sign in enumerate([*alphabet, "<eos>"])}
    made = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>").save_pretrained(str(folder))


@pytest.mark.slow
def test_a_language_model_verifies_what_another_thinks(tmp_path):
    """Two Qwen2s in Hugging Face folders, as R1-Distill and an instruct model are; the verifier reads plain English."""
    thinker, verifier = (make_base(tmp_path / name, seed=seed, extra_rows=300) for seed, name in enumerate("tv"))
    load_tokenizer("embedded:reflections").save(thinker)
    byte_level(verifier)
    assert load_tokenizer(str(verifier), needs_separator=False).num_tokens == 258
    settings = {"run": "cot", "model.base": str(thinker), "data.tokenizer": "", "eval.trim.verifier": str(verifier)}
    settings |= {"eval.trim.answer_cue": "So", "eval.trim.max_segments": 1, "eval.seeds": 0}
    config = config_of(tmp_path / "run", **NEVER | settings)
    run = prepare(config)
    adopt(run, "cot", jax.tree.map(lambda leaf: 4 * leaf if leaf.ndim else leaf, run.initial_parameters()))
    rows = rows_of(sweep([config], tmp_path / "out"))
    assert_same(rows["1000", "greedy"], rows["-", "greedy"])
    (odds,) = trim_source(run)._verifier.finish(
        trim_source(run)._verifier.start([Inquiry(Asked.STATES, "?", ("So 3.",))])
    )
    assert np.isfinite(odds) and odds != 0


def test_what_cannot_verify_is_one_line(workdir, tmp_path):
    for wrong, message in {
        "cot": r"eval.trim.verifier='cot' was trained with method='cot': name a stage of method segment_judge",
        "juge": r"eval.trim.verifier='juge': there is no such folder.* Did you mean 'judge'",
        str(workdir / "cot"): r"was trained with method='cot'",
    }.items():
        with pytest.raises(UserError, match=message):
            sweep([config_of(workdir, **{"eval.trim.verifier": wrong})], tmp_path / "out")
    for name, value, learned in (
        ("cue_after", "blank_line", "line"),
        ("sentences", 3, "1"),
        ("cues", "Hm,But", "Alter.*"),
    ):
        message = f"is trained with segment_judge.{name}='?{learned}.* Set --config.eval.trim.{name}={learned}"
        with pytest.raises(UserError, match=message):
            trim_source(prepare(config_of(workdir, **{f"eval.trim.{name}": value})))
    in_another_order = config_of(workdir, **{"eval.trim.cues": "Hmm, But,Wait,Alternatively"})
    assert trim_source(prepare(in_another_order)).stage_folder == workdir / "judge"
    for name, value in {"cue_after": "word", "chunk": 0, "agreements": "0", "cues": " ", "budget_share": 2.0}.items():
        with pytest.raises(UserError, match=f"eval.trim.{name}"):
            config_of(workdir, **{f"eval.trim.{name}": value})


def test_rows_that_were_kept_with_a_cue_in_their_length_are_decoded_anew(workdir):
    def depends_on(cue):
        return trim_source(prepare(config_of(workdir, **{"eval.trim.answer_cue": cue}), sets="none")).depends_on

    assert depends_on("So")["cue"] == "no thought" and "cue" not in depends_on("")


# What two chains say, a character a token, and a verifier that reads digits.
SCRIPTS = ("7.\nWait, 7.\nWait, 7.\nWait, 7.", "7.\nWait, 8.")


class Scripted:
    """Programs that think what is written, and devices that are not there."""

    def __init__(self):
        self.fed = np.zeros(len(SCRIPTS), int)

    def begin(self, parameters, rows, what):
        return np.full(len(SCRIPTS), np.iinfo(np.int32).max)

    def go_on(self, parameters, rows, what):
        ends_B, (_, until) = np.minimum(*rows), what
        lengths_B = np.array([len(script) for script in SCRIPTS])
        counts_B = np.minimum(np.minimum(lengths_B, until), ends_B)
        self.fed = np.maximum(self.fed, counts_B)
        words_BL = np.array([[ord(sign) for sign in script.ljust(40)] for script in SCRIPTS])
        return ends_B, Glimpse(words_BL, counts_B, (counts_B == lengths_B) | (counts_B == ends_B))

    def answer(self, parameters, rows, what):
        counts_B = np.minimum(np.minimum(*rows), [len(script) for script in SCRIPTS])
        nothing = np.zeros((2, 1))
        return Decoded(None, nothing, nothing, counts_B, counts_B < 0, nothing, nothing, counts_B)


class Reader:
    """A verifier that reads digits, in no time."""

    num_compiled = 0

    def num_tokens(self, inquiry):
        return 10

    def verdicts(self, inquiries, run):
        return run(self.read, inquiries)

    def read(self, inquiries):
        digits = [[[sign for sign in ending if sign.isdigit()] for ending in one.endings] for one in inquiries]
        return [bool(found[0]) and found[0] == found[-1] for found in digits]


def scripted_decode(chunk: int, verifier):
    """What is decoded, the devices that thought it, and the times."""
    settings = TrimConfig(verifier="a reader", cue_after="line", sentences=1, chunk=chunk)
    programs, scripted = Programs(), Scripted()
    tokenizer = types.SimpleNamespace(decode=lambda ids: "".join(map(chr, ids)))
    shared = TrimPrograms(settings, verifier, tokenizer, programs)
    shared.compiled = lambda spec: _Compiled(scripted.begin, scripted.go_on, scripted.answer)
    spec = types.SimpleNamespace(engine=types.SimpleNamespace(put_rows=lambda rows: rows))
    decodes = shared.ended_by(1)
    running = decodes.start(spec, None, None, None, Variation(np.int32(40), ()), ("?", "?"))
    return decodes.finish(running), scripted, programs


@pytest.mark.parametrize("chunk", [1, 4, 11, 40])
def test_chains_end_where_answers_agree_and_what_is_thought_meanwhile_is_counted(chunk):
    decoded, scripted, _ = scripted_decode(chunk, Reader())
    second = SCRIPTS[0].index("\nWait", 5)
    assert decoded.num_thoughts_B.tolist() == [second, len(SCRIPTS[1])]
    assert decoded.trim["agreed"].tolist() == [True, False] and not decoded.trim["cut_without_agreement"].any()
    assert decoded.trim["verifier_passes"].tolist()[1] == 1  # its first segment; the last one is not over
    assert decoded.trim["verifier_passes"][0] in (3, 5)  # 5: a third segment was over before the first look
    np.testing.assert_array_equal(decoded.trim["verifier_tokens"], 10 * decoded.trim["verifier_passes"])
    np.testing.assert_array_equal(decoded.trim["discarded_thoughts"], scripted.fed - decoded.num_thoughts_B)
    assert decoded.trim["discarded_thoughts"][0] <= 7 + 2 * chunk


@pytest.mark.parametrize("chunk", [4, 11])
def test_the_verifier_s_time_is_compiling_or_the_devices_and_never_the_host_s(chunk, monkeypatch):
    """On a clock that only programs and waiting move: nothing is left for the host."""
    now = [0.0]

    class Slow(Reader):
        def read(self, inquiries):
            now[0] += 1 if self.num_compiled else 6
            self.num_compiled = 1
            return super().read(inquiries)

    def fetch(given):
        now[0] += 0.1
        return given

    monkeypatch.setattr(trimmed, "fetch", fetch)
    monkeypatch.setattr(trimmed, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    _, _, programs = scripted_decode(chunk, Slow())
    assert (programs.num_compiled, programs.compile_seconds) == (1, 6)
    assert 1 < programs.device_seconds == pytest.approx(now[0] - 6)
