"""The questions that the docs, the model card and the notebooks ask: the demo model answers each one right.

The demo model is the `colar` stage of `configs/arithmetic.py`, asked at speed 2 and greedily. It knows problems of
three to five operations in the words of `data/arithmetic.py`, and nothing else. The chains are from the test split, so
no model of that config was trained on them. `tests/test_example_questions.py` calculates the answers, looks for
questions in the docs that are not in this list, and asks a trained model.
"""

from colar_jax.data.problems import Problem

EXAMPLES = (
    Problem(
        "Eva has 10 apples. Each becomes 3. She gives away 5. She buys 9 more. How many apples now?",
        ("<<10*3=30>>", "<<30-5=25>>", "<<25+9=34>>"),
        "34",
    ),
    Problem(
        "Zoe has 29 nuts. Then 13 of them break. She keeps one in 2. She buys 9 more. Then she loses 5. "
        "How many nuts now?",
        ("<<29-13=16>>", "<<16/2=8>>", "<<8+9=17>>", "<<17-5=12>>"),
        "12",
    ),
    Problem(
        "Sam has 28 stamps. Then he finds 20. He keeps one in 2. He gives away 2. He gives away 12. Each becomes 3. "
        "How many stamps now?",
        ("<<28+20=48>>", "<<48/2=24>>", "<<24-2=22>>", "<<22-12=10>>", "<<10*3=30>>"),
        "30",
    ),
)

# The one to show where there is room for one only.
EXAMPLE = EXAMPLES[0]
