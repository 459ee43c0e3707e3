"""Numbers that a text does not say in digits: "half", "a week", "how many minutes"."""

import re
from fractions import Fraction

_WORDS_FOR = {
    Fraction(1): r"half|halv\w+|third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth|one|more|less|%|percent",
    Fraction(2): r"half|halv\w+|twice|two|doubl\w+|both|pairs?|couple|average|each other|twins?|second|parents?",
    Fraction(3): r"thirds?|triple[sd]?|tripling|thrice|three|trio|yards?",
    Fraction(4): r"quarters?|fourths?|quadruple[sd]?|four|square|sides|legs|wheels|cars",
    Fraction(5): r"fifths?|nickels?|weekdays?|five",
    Fraction(6): r"sixths?|six|half a dozen",
    Fraction(7): r"sevenths?|weeks?|weekly|daily|every day|each day|seven",
    Fraction(8): r"eighths?|eight",
    Fraction(9): r"ninths?|nine",
    Fraction(10): r"tenths?|dimes?|decades?|ten",
    Fraction(12): r"dozens?|years?|yearly|annual(?:ly)?|months?|monthly|f(?:oo|ee)t|inch(?:es)?",
    Fraction(14): r"fortnights?|two weeks",
    Fraction(16): r"ounces?|pounds?",
    Fraction(24): r"days?|daily",
    Fraction(25): r"quarters?",
    Fraction(28): r"february|weeks?",
    Fraction(30): r"months?|monthly|june|april|september|november|half an hour",
    Fraction(31): r"january|march|may|july|august|october|december",
    Fraction(36): r"yards?|inch(?:es)?",
    Fraction(52): r"years?|weeks?|weekly|cards?",
    Fraction(60): r"hours?|hourly|minutes?|seconds?",
    Fraction(100): r"%|percent(?:age)?|cents?|pennies|penny|dollars?|hundreds?|cent(?:imeters?|ury|uries)|meters?|\$",
    Fraction(144): r"gross",
    Fraction(180): r"angles?|triangles?|degrees?",
    Fraction(360): r"degrees?|circle|full turn",
    Fraction(365): r"years?|yearly|every day|each day|daily",
    Fraction(366): r"leap",
    Fraction(1000): r"thousands?|kilo\w+|kg|km|grams?|millilit\w+|liters?",
    Fraction(2000): r"tons?",
    Fraction(3600): r"hours?",
    Fraction(5280): r"miles?",
    Fraction(1, 2): r"half|halves|50%",
    Fraction(1, 4): r"quarters?|one[- ]fourth",
    Fraction(3, 2): r"and a half|half",
    Fraction(1, 10): r"dimes?|tenth",
    Fraction(1, 20): r"nickels?",
    Fraction(1, 100): r"penny|pennies|cents?|%|percent(?:age)?",
}


def implied_numbers(text: str) -> set[Fraction]:
    """The numbers that some word of a text may stand for; more rather than fewer."""
    return {
        value
        for value, words in _WORDS_FOR.items()
        if re.search(rf"(?<![a-z])(?:{words})(?![a-z])", text, re.IGNORECASE) is not None
    }
