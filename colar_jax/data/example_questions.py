"""The questions that the docs, the model card and the notebooks ask: the demo model answers each one right.

The demo model is the `colar` stage of `configs/arithmetic.py:two_speeds`, asked at speed 2 and greedily. It knows
problems of three to five operations in the words of `data/arithmetic.py`, and nothing else. The chains are from the
test split, so no model of that config was trained on them. `tests/test_example_questions.py` calculates the answers,
looks for questions in the docs that are not in this list, and asks a trained model.
"""

from colar_jax.data.problems import Problem

EXAMPLES = (
    Problem(
        "Eva has 10 apples. Each becomes 2. She gives away 6. She buys 3 more. How many apples now?",
        ("<<10*2=20>>", "<<20-6=14>>", "<<14+3=17>>"),
        "17",
    ),
    Problem(
        "Zoe has 19 nuts. Then 3 of them break. She keeps one in 2. She buys 6 more. Then she loses 2. "
        "How many nuts now?",
        ("<<19-3=16>>", "<<16/2=8>>", "<<8+6=14>>", "<<14-2=12>>"),
        "12",
    ),
    Problem(
        "Sam has 9 stamps. Then he finds 5. He keeps one in 2. He gives away 3. He gives away 2. Each becomes 4. "
        "How many stamps now?",
        ("<<9+5=14>>", "<<14/2=7>>", "<<7-3=4>>", "<<4-2=2>>", "<<2*4=8>>"),
        "8",
    ),
)

# The one to show where there is room for one only.
EXAMPLE = EXAMPLES[0]
