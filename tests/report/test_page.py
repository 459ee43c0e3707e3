import dataclasses
import json
import re
from html.parser import HTMLParser

from report.test_differences import RESULTS

from colar_jax.report import page as page_module
from colar_jax.report.files import Report, numbers_of, tables_of

HOSTILE = """</script><script>alert(1)</script><!-- @@SCRIPT@@ <b>&amp;\u2028 "quoted' """


def page(report, samples):
    return page_module.page(numbers_of(report), tables_of(report, latents_first=True), samples)


def sample(number=0, **fields):
    return {
        "stage": "colar", "dataset": "a", "speed": "2", "question": f"How many? {number}", "answer": "1",
        "prediction": "1", "text": "Answer:1", "right": True, "length": 2, "forced_stop": False,
    } | fields  # fmt: skip


class Read(HTMLParser):
    """Which elements there are, and the text in each script."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.references = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href")]
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags[-1:] == ["script"]:
            self.scripts[-1] += data


def test_no_text_becomes_markup_and_all_of_it_arrives():
    samples = [sample(question=HOSTILE, prediction=HOSTILE, latents=[{"words": [[HOSTILE, 0.5]]}])]
    report = Report(HOSTILE, HOSTILE, [dataclasses.replace(r, run=HOSTILE) for r in RESULTS])
    numbers = numbers_of(report)
    plain, hostile = Read(page(Report("t", "n", RESULTS), [sample()])), Read(page(report, samples))
    assert hostile.tags == plain.tags and len(hostile.scripts) == 2
    assert hostile.scripts[1] == plain.scripts[1], "the page's own script is the same, whatever the data say"
    data = json.loads(hostile.scripts[0])
    assert data["samples"] == samples and data["report"] == json.loads(json.dumps(numbers))


def test_the_page_needs_nothing_from_elsewhere():
    text = page(Report("t", "n", RESULTS), [sample()])
    assert Read(text).references == []
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}  # the name of SVG
    assert "@import" not in text and "url(" not in text and "innerHTML" not in text


def test_a_page_shows_the_first_samples_of_every_row_and_says_how_many_are_left_out(monkeypatch):
    monkeypatch.setattr(page_module, "MAX_SAMPLES", 3)
    samples = [sample(i, speed=speed) for speed in ("2", "5") for i in range(5)] + [sample(dataset="b")]
    data = json.loads(Read(page(Report("t", "n", RESULTS), samples)).scripts[0])
    assert [(s["speed"], s["dataset"]) for s in data["samples"]] == [("2", "a")] * 3 + [("5", "a")] * 3 + [("2", "b")]
    assert data["samplesLeftOut"] == 4


def test_causal_tests_are_on_the_page_where_there_are_any():
    test = {"stage": "colar", "speed": "2", "intervention": "zero", "accuracy": 0.5, "difference": -0.3}
    causal = [test | {"interval": [-0.4, -0.2], "used": True}]
    for tests in ((), causal):
        data = json.loads(Read(page(Report("t", "n", RESULTS, causal=tests), [])).scripts[0])
        assert data["report"].get("causal", ()) == tests


def test_latents_come_before_chains_of_thought_and_the_tables_can_be_copied():
    thinking = {"cot": "words", "colar": "latents", "no_cot": ""}
    results = [dataclasses.replace(r, thinks_in=thinking[r.stage]) for r in RESULTS]
    samples = [sample(stage="no_cot"), sample(stage="cot"), sample(), sample(1, stage="cot")]
    data = json.loads(Read(page(Report("t", "n", results), samples)).scripts[0])
    assert [one["stage"] for one in data["samples"]] == ["colar", "cot", "cot", "no_cot"]
    accuracy, differences = data["tables"]
    assert [row[0] for row in accuracy["rows"]] == ["colar"] * 3 + ["cot", "no_cot"]
    assert [row[0].split(",")[0] for row in differences["rows"]] == ["colar"] * 2 + ["cot", "no_cot"]
    assert accuracy["csv"].splitlines()[0] == "stage,speed,sampling,a" and r"\toprule" in accuracy["latex"]
    assert data["report"]["results"][0]["stage"] == "cot", "report.json keeps the run's order"


def test_length_is_explained_before_it_is_used():
    text = page(Report("t", "n", RESULTS), [])
    body = text[text.index("<body>") : text.index('<script type="application/json"')]
    assert body.index('id="summary"') < body.index("<strong>#L</strong> is the length") < body.index("first-table")
    assert "#L" not in numbers_of(Report("t", "n", RESULTS))["summary"]
