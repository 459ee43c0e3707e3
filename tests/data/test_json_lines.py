"""Reading a JSON Lines file strictly: any bytes are problems, or one line that says where and what."""

import gzip
import json
import logging
import os
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from colar_jax.data.json_lines import read_problems
from colar_jax.data.problems import Problem
from colar_jax.data.records import KEYS
from colar_jax.errors import UserError

# By hand: COLAR_FUZZ_EXAMPLES=20000 pytest tests/data/test_json_lines.py
NUM_EXAMPLES = int(os.environ.get("COLAR_FUZZ_EXAMPLES", "150"))

GOOD = b'{"question": "How many?", "steps": ["<<1+1=2>>"], "answer": "2"}\n'


def line(question='"a"', steps="[]", answer='"1"', more=""):
    return f'{{"question": {question}, "steps": {steps}, "answer": {answer}{more}}}\n'.encode()


def written(tmp_path, data: bytes, name="some.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


REFUSED = {
    "half a surrogate pair in the question": (line(r'"a\ud800"'), 1, "question has '\\ud800', half of a character"),
    "in a step": (GOOD + line(steps=r'["x", "\udfff"]'), 2, "a step has '\\udfff', half of a character"),
    "in the answer": (line(answer=r'"\udc00\ud83d"'), 1, "answer has '\\udc00', half of a character"),
    "as bytes": (
        line('"\ud800"'.encode(errors="surrogatepass").decode("latin-1")).decode().encode("latin-1"),
        1,
        "not UTF-8",
    ),
    "deep lists": (GOOD + b"[" * 10**5 + b"]" * 10**5, 2, "lists or objects stand inside each other too deeply"),
    "deep lists in a value": (line(steps="[" * 9**5 + "]" * 9**5), 1, "lists or objects stand inside each other"),
    "deep objects": (line(answer='{"a":' * 9**5 + "1" + "}" * 9**5), 1, "lists or objects stand inside each other"),
    "a huge integer": (line(answer="9" * 5000), 1, "a number of 5000 digits: write it as a text"),
    "a huge negative integer": (line(answer="-" + "9" * 5000), 1, "a number of 5001 digits: write it as a text"),
    "a huge exponent": (line(answer="1e" + "9" * 50), 1, "write it as a text"),
    "not a number": (line(answer="NaN"), 1, "answer is nan, not a text"),
    "minus infinity": (line(answer="-Infinity"), 1, "answer is -inf, not a text"),
    "a number for a question": (line("1e999"), 1, "question is Decimal('1E+999'), not a text"),
    "the same key twice": (line(more=', "answer": "2"'), 1, "key 'answer' is there twice"),
    "an unknown key twice": (line(more=', "id": 1, "id": 1'), 1, "key 'id' is there twice"),
    "a byte order mark in the middle": (GOOD + b"\xef\xbb\xbf" + GOOD, 2, "not JSON: Unexpected UTF-8 BOM"),
    "zero bytes at the end": (GOOD + b"\x00" * 100, 2, "zero bytes, as in a damaged file"),
    "a zero byte in a text": (line('"a\x00"'), 1, "zero bytes, as in a damaged file"),
    "carriage returns alone": (GOOD.replace(b"\n", b"\r") * 2, 1, "lines that end in a carriage return alone"),
    "UTF-16 without a mark": (
        GOOD.decode().encode("utf-16-be"),
        1,
        "zero bytes, as in a damaged file or one that is UTF-16",
    ),
    "Latin-1": (line('"é"').decode().encode("latin-1"), 1, "not UTF-8"),
    "white space that JSON has not": (b"\x0b" + GOOD, 1, "not JSON"),
    "two objects on a line": (GOOD.strip() + GOOD, 1, "not JSON: Extra data"),
    "no steps": (b'{"question": "a", "answer": "1"}', 1, "key 'steps' is missing; expected"),
    "no steps, but other keys": (
        b'{"question": "a", "answer": "1", "id": 1, "solution": "b"}',
        1,
        "key 'steps' is missing (other keys: 'id', 'solution')",
    ),
    "a misspelt key": (line().replace(b"steps", b"step"), 1, "key 'steps' is missing; is it 'step'?"),
    "a misspelt key in GSM8K's form": (
        b'{"question": "a", "Steps": ["b"], "answer": "1\\n#### 2"}',
        1,
        "key 'steps' is missing; is it 'Steps'?",
    ),
    "two misspelt keys": (
        line().replace(b"question", b"Question").replace(b"answer", b"ans"),
        1,
        "key 'question' is missing; is it 'Question'?, key 'answer' is missing (other keys: 'ans')",
    ),
    "half a character in another key": (b'{"question": "a", "answer": "1", "\\ud800": 1}', 1, r"other keys: '\ud800')"),
    "many other keys": (
        b'{"question": "a", "answer": "1"' + b"".join(b', "k%d": 1' % n for n in range(9)) + b"}",
        1,
        "(other keys: 'k0', 'k1', 'k2', 'k3', 'k4' and 4 more)",
    ),
    "a long key": (b'{"question": "a", "' + b"k" * 5000 + b'": 1}', 1, "other keys: 'kkkkkkkkkkkk...kkkkkkkkkkkkk')"),
    "a file that is one list": (b"[" + b", ".join([GOOD.strip()] * 99) + b"]", 1, "a list: write one object a line;"),
    "a list over several lines": (b"[\n" + GOOD + b"]", 1, "a list: write one object a line;"),
    "a list with its first object": (b"[" + GOOD.strip() + b",\n" + GOOD + b"]", 1, "a list: write one object a line;"),
    "an object over several lines": (GOOD.replace(b"{", b"{\n "), 1, "an object that goes on in the next line: write"),
    "a blank line in the middle": (GOOD + b" \n\n" + GOOD, 2, "the line is blank, and others follow"),
    "GSM8K's form without its mark": (b'{"question": "a", "answer": "1 #### 2"}', 1, "no final answer after '####'"),
    "GSM8K's form without an answer": (b'{"question": "a", "answer": "1\\n####  "}', 1, "answer is ''"),
    "GSM8K's form with more than the answer": (
        b'{"question": "a", "answer": "1\\n#### 2\\nThat is all."}',
        1,
        "more than a line after '####', where the answer alone stands: '2\\nThat is all.'",
    ),
    "GSM8K's form beside steps": (
        GOOD + line(answer=r'"first\n#### 4"'),
        2,
        r"answer is 'first\n#### 4', with a line that begins with '####': beside 'steps' write the answer alone, or",
    ),
    "GSM8K's form beside no steps": (line(answer='"#### 4"'), 1, "with a line that begins with '####'"),
    "GSM8K's form beside a cot": (
        line(answer=r'"first\r\n #### 4\r\n"').replace(b"steps", b"cot"),
        1,
        "with a line that begins with '####': beside 'cot' write the answer alone, or leave 'cot' out",
    ),
    "GSM8K's mark twice": (b'{"question": "a", "answer": "1\\n#### #### 2"}', 1, "with a line that begins with '####'"),
}


@pytest.mark.parametrize(("data", "number", "fault"), REFUSED.values(), ids=REFUSED)
def test_what_a_strict_reading_forbids_is_one_line(tmp_path, data, number, fault):
    path = written(tmp_path, data)
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}:{number}: .*{re.escape(fault)}") as caught:
        read_problems(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400 + len(str(path))
    str(caught.value).encode()  # it can be printed


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (GOOD.decode().encode("utf-16"), "is UTF-16: save it as UTF-8"),
        (GOOD.decode().encode("utf-32"), "is UTF-32: save it as UTF-8"),
        (gzip.compress(GOOD, mtime=0), r"is compressed: give it a name that ends in \.jsonl\.gz"),
    ],
)
def test_a_file_of_another_kind(tmp_path, data, message):
    path = written(tmp_path, data)
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: {message}$"):
        read_problems(path)


@pytest.mark.parametrize(
    "data",
    [
        GOOD,
        b"\xef\xbb\xbf" + GOOD,
        GOOD.replace(b"\n", b"\r\n"),
        GOOD.rstrip(),
        b" \t" + GOOD,
        GOOD.replace(b"How", b"\\u0048ow"),
        b'{"question": "How many?", "answer": "<<1+1=2>>\\n#### 2"}',
        b'{"answer": "\\n<<1+1=2>>\\n\\n####2\\n", "question": "How many?"}',
        b'{"id": 7, "question": "How many?", "answer": "<<1+1=2>>\\n#### 2"}',
        b'{"question": "How many?", "steps": "<<1+1=2>>\\r\\n\\n", "answer": 2, "difficulty": {"level": 1}}',
        b'{"question": "How many?", "cot": ["<<1+1=2>>"], "answer": "2", "\\ud800": null}',
        GOOD + b"\n",
        GOOD + b"\r\n \t\n\n",
    ],
)
def test_the_same_problem(tmp_path, data):
    assert read_problems(written(tmp_path, data)) == [Problem("How many?", ("<<1+1=2>>",), "2")]
    assert read_problems(written(tmp_path, gzip.compress(data), "some.jsonl.gz"))[0].answer == "2"


@pytest.mark.parametrize(
    ("number", "answer"),
    [
        ("2.50", "2.5"),
        ("1E5", "100000.0"),
        ("-0", "0"),
        ("0.10000000000000000001", "0.10000000000000000001"),
        ("12345678901234567890.5", "12345678901234567890.5"),
        ("12345678901234567890123", "12345678901234567890123"),
        ("1e999", "1E+999"),
        ("1e-999", "1E-999"),
    ],
)
def test_a_number_is_never_rounded(tmp_path, number, answer):
    assert read_problems(written(tmp_path, line(answer=number)))[0].answer == answer


def test_gsm8k_may_have_lines_of_windows(tmp_path):
    path = written(tmp_path, b'{"question": "a", "answer": "1+1=2\\r\\n2+2=4\\r\\n#### 4\\r\\n"}')
    assert read_problems(path) == [Problem("a", ("1+1=2", "2+2=4"), "4")]


def test_gsm8k_may_have_no_solution_and_marks_inside_one(tmp_path):
    rows = [{"question": "a", "answer": "#### 1,200"}, {"question": "b", "answer": "#### x\ny #### z\n\n#### 3"}]
    path = written(tmp_path, "\n".join(map(json.dumps, rows)).encode())
    assert read_problems(path) == [Problem("a", (), "1,200"), Problem("b", ("#### x", "y #### z"), "3")]


@pytest.mark.parametrize("answer", ["1 #### 2", "1\n2", "### 4", "1\n2 ####"])
def test_an_answer_beside_steps_is_taken_as_it_is(tmp_path, answer):
    """MATH has answers of several lines: matrices."""
    assert read_problems(written(tmp_path, line(answer=json.dumps(answer)))) == [Problem("a", (), answer)]


def test_steps_may_be_a_text(tmp_path):
    texts = {"a\n\n b \n": ("a", " b "), "<<1+1=2>> <<2*2=4>>": ("<<1+1=2>>", "<<2*2=4>>"), " \n": ()}
    path = written(tmp_path, b"".join(line(steps=json.dumps(text)) for text in texts))
    assert [problem.steps for problem in read_problems(path)] == list(texts.values())


def test_keys_that_are_not_read_are_one_line_for_the_file(tmp_path, caplog):
    path = written(tmp_path, GOOD + line(more=', "source": "x", "id": 1') * 3 + line(more=r', "\ud800": 1, "cot": ""'))
    with caplog.at_level(logging.INFO):
        assert len(read_problems(path)) == 5
    said = f"{path}: a problem is question, steps and answer; not read: '\\ud800', 'cot', 'id', 'source'"
    assert caplog.messages == [said]
    caplog.clear()
    read_problems(written(tmp_path, GOOD * 2 + b'{"question": "a", "cot": "b", "answer": "1"}'))
    assert not caplog.messages


def test_a_problem_that_is_only_asked_may_be_without_steps(tmp_path):
    path = written(tmp_path, b'{"question": "a", "answer": "1"}\n{"question": "b", "answer": "1\\n#### 2", "id": 1}\n')
    assert read_problems(path, needs_steps=False) == [Problem("a", (), "1"), Problem("b", ("1",), "2")]
    for key in ("step", "Steps", "stpes"):
        path = written(tmp_path, line().replace(b"steps", key.encode()))
        with pytest.raises(UserError, match=f":1: key 'steps' is missing; is it '{key}'?"):
            read_problems(path, needs_steps=False)
    path = written(tmp_path, b'{"question": "a", "answer": "1 + 1\\nis 2"}')
    with pytest.raises(UserError, match=":1: key 'steps' is missing, and the answer has more than a line: end"):
        read_problems(path, needs_steps=False)


def test_a_limit_counts_problems(tmp_path):
    path = written(tmp_path, GOOD + b"\n" + GOOD)
    assert len(read_problems(path, 1)) == 1
    with pytest.raises(UserError, match=":2: the line is blank"):
        read_problems(path, 2)


def test_a_problem_knows_its_line(tmp_path):
    path = written(tmp_path, GOOD * 3)
    assert [problem.place for problem in read_problems(path)] == [f"{path}:{n}" for n in (1, 2, 3)]


# Any bytes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["question", "steps", "answer", "id", ""]), inner)
    ),
    max_leaves=6,
)
RECORDS = st.fixed_dictionaries(
    {"question": st.text(st.characters(codec=None)) | JSON, "answer": st.text(st.characters(codec=None)) | JSON},
    optional={"steps": st.lists(st.text(st.characters(codec=None))) | JSON},
)
LINES = (RECORDS | JSON).map(lambda value: json.dumps(value).encode()) | RECORDS.map(
    lambda value: json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")
)


@st.composite
def damaged_files(draw):
    """Some lines, of which any may be cut, changed, doubled or glued to another."""
    data = b"\n".join(draw(st.lists(LINES | st.just(GOOD.strip()), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 3))):
        start, stop = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
        new = draw(
            st.binary(max_size=3) | st.sampled_from([b"NaN", b"\\ud800", b'"', b"{", b"[", b"\r", b"1e999", b""])
        )
        data = draw(
            st.sampled_from([data[:start] + new + data[stop:], data[:start] + new + data[start:], data + data[start:]])
        )
    return data


def strictly(data: bytes) -> list[Problem]:
    """What the lines say by the letter of RFC 8259 and of the form; any exception where they break either."""

    def once(pairs):
        assert len({key for key, _ in pairs}) == len(pairs)
        return dict(pairs)

    problems = []
    for text in re.sub(r"[ \t\r\n]+\Z", "", data.removeprefix(b"\xef\xbb\xbf").decode("utf-8")).split("\n"):
        record = json.loads(text.strip(" \t\r"), object_pairs_hook=once, parse_constant=None)
        json.dumps([record[key] for key in KEYS if key in record], ensure_ascii=False, allow_nan=False).encode("utf-8")
        question, answer = record["question"], record["answer"]
        assert isinstance(question, str) and question.strip()
        assert type(answer) in (str, int, float) and str(answer).strip()
        if "steps" in record:
            steps = record["steps"]
            if isinstance(steps, str):
                steps = [step for step in re.split("\r\n|\r|\n", steps) if step.strip()]
            assert isinstance(steps, list) and all(isinstance(step, str) for step in steps)
            assert not any(part.strip(" \t").startswith("####") for part in re.split("\r\n|\r|\n", str(answer)))
            problems.append(Problem(question, tuple(steps), str(answer)))
        else:
            assert "\n####" in "\n" + answer
            worked, _, answer = ("\n" + answer).rpartition("\n####")
            assert not answer.strip(" \t").startswith("####")
            steps = tuple(step for step in worked.split("\n") if step.strip())
            problems.append(Problem(question, steps, answer.strip()))
    return problems


@settings(max_examples=NUM_EXAMPLES, deadline=None)  # two tests may share a core
@given(damaged_files() | st.binary(max_size=60))
@example(b"")
@example(b"\n")
@example(GOOD + b"\r")
def test_any_bytes_are_read_strictly_or_refused_with_the_file_and_line(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.write_bytes(data)
    problems, refusal = None, ""
    try:
        problems = read_problems(path)
    except UserError as error:
        refusal = str(error)
    if problems is None:
        assert refusal.startswith(str(path)) and "\n" not in refusal
        refusal.encode()  # it can be printed
    else:
        assert problems == (strictly(data) if data.strip(b" \t\r\n") else [])
