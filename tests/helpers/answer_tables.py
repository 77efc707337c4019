"""Tables of answers: the number in a text, and which answers are the same under each type of data.answer."""

ONE_NUMBER = [
    # Words and units around it
    ("18", 18),
    ("18 pens", 18),
    ("18 euros", 18),
    ("18 pm", 18),
    ("18k", 18),  # a word is never part of a number
    ("18 thousand", 18),
    ("Tom has 18 pens.", 18),
    ("The answer is 18!", 18),
    ("18 (eighteen)", 18),
    ("2nd", 2),
    ("18-carat", 18),
    ("18 km/h", 18),
    ("$18/hour", 18),
    ("18 cm^2", 18),
    ("18 m²", 18),
    ("90°", 90),
    ("x = 18", 18),
    ("= 18", 18),
    ("x1 = 5", 5),  # digits after a letter belong to its name
    ("H2O", None),
    ("答案是18。", 18),
    # Punctuation and markup
    ("18.", 18),
    ("18,", 18),
    ("(18)", 18),
    ("**18**", 18),
    ("*18*.", 18),
    ("_18_", 18),
    ("`18`", 18),
    ("#### 18", 18),
    ("\\boxed{18}", 18),
    ("\\(18\\)", 18),
    ("$\\text{18 pens}$", 18),
    ("18\\text{ cm}^2", 18),
    ("18^\\circ", 18),
    # Currency
    ("$18", 18),
    ("$$18", 18),
    ("18$", 18),
    ("\\$18", 18),
    ("€ 18.50", 18.5),
    ("US$18", 18),
    ("Rs.18", 18),
    # A percent sign is a unit
    ("18%", 18),
    ("18 %", 18),
    ("18\\%", 18),
    # Separators of thousands
    ("1,080", 1080),
    ("$1,000.00", 1000),
    ("12,345,678", 12_345_678),
    ("1'080", 1080),
    ("1\u202f080", 1080),
    ("1{,}080", 1080),
    ("1\\,080", 1080),
    ("1 080", None),  # two numbers
    ("1,2", None),
    ("10,80", None),
    ("1,0800", None),
    ("1.080,50", None),
    ("1,080,50", None),
    # Signs
    ("-5", -5),
    ("−5", -5),
    ("–5", -5),
    ("- 5", -5),
    ("-$5", -5),
    ("$-5", -5),
    ("+5", 5),
    ("x = - 5", -5),
    ("it fell to -5", -5),
    ("Total - 18", 18),  # after an operand it subtracts
    ("x-5", 5),
    ("5-", 5),
    # Decimals, powers of ten, fractions
    ("18.0", 18),
    (".5", 0.5),
    ("...5", 5),
    ("1e3", 1000),
    ("2.5e-3", 0.0025),
    ("1e999", None),
    ("1/2", 0.5),
    ("1 / 2", 0.5),
    ("-1/2", -0.5),
    ("36/2", 18),
    ("1/0", None),
    ("1 1/2", 1.5),
    ("1½", 1.5),
    ("\\frac{1}{2}", 0.5),
    ("\\dfrac12", 0.5),
    ("-\\frac{1}{2}", -0.5),
    ("1\\frac{1}{2}", 1.5),
    ("\\frac{a}{2}", 2),
    # The same number twice is one
    ("18 = 18.0", 18),
    ("\\frac{36}{2} = 18", 18),
    ("0.5 (1/2)", 0.5),
    # Several numbers, and arithmetic
    ("18 or 19", None),
    ("16\n17\n18", None),
    ("-18 18", None),
    ("5:30", None),
    ("1.2.3", None),
    ("11/28/2026", None),
    ("10-5", None),
    ("5 - 5", None),
    ("3 x 4", None),
    ("3 x 3", None),
    ("3\\times3", None),
    ("2^{2}", None),
    ("5²", None),
    ("√4", None),
    ("2\\pi", None),
    # None at all
    ("", None),
    ("eighteen", None),
    ("٣", None),
    ("²", None),
    ("１８", None),
]

# left, right -> same
SAME_BY_NUMBER: list[tuple[str, str, bool]] = (
    [("18", "18.00", True), ("1,080", "1080", True), ("$5", "5", True), ("-0", "0", True), ("a", " a\n", True)]
    + [("18", "19", False), ("10,80", "1080", False), ("5 pens", "5", True), ("", "0", False)]
    + [("20%", "20", True), ("20%", "0.2", False), ("1/2", "0.5", True), ("1/2", "50%", False)]
    # Whole numbers are compared exactly, others within a millionth.
    + [("0.30000000000000004", "0.3", True), ("0.3333333", "1/3", True), ("0.333", "1/3", False)]
    + [("17.9999999", "18", True), ("17.999", "18", False), ("1000000", "1000001", False), ("1e-9", "0", False)]
    + [("9" * 400, "9" * 399 + "8", False), ("9" * 400, "9" * 400 + " pens", True), ("9" * 400 + ".5", "0.5", False)]
    # A gold answer without exactly one number is compared as text.
    + [("5:30", "5:30.", True), ("5", "5:30", False), ("16 or 18", "18", False), ("(A)", "A", True)]
)

# left, right -> same
SAME_BY_TEXT: list[tuple[str, str, bool]] = (
    [(text, "A", True) for text in ("A", "a", "(A)", "A.", "A)", "[A]", "**A**", "`A`", '"A"', "“A”", " A\n", "A。")]
    + [(text, "A", True) for text in ("\\boxed{A}", "\\text{A}", "\\boxed{\\text{(A)}}.", "\\(A\\)", "$A$")]
    + [("new york", "New York.", True), ("7", "7", True), ("−5", "-5", True), ("ÉTÉ", "été", True)]
    + [("7", "007", False), ("7", "7.0", False), ("1/2", "0.5", False), ("7 pens", "7", False), ("-5", "5", False)]
    + [(".5", "5", False), ("<5", ">5", False), ("C", "C++", False), ("A or B", "A", False), ("", "A", False)]
    + [("...", "?", False), ("?", "?", True), ("", "...", False)]
    + [(text, "New York", True) for text in ("new  york", "New\u00a0York", "**New\n York**")]
    + [("cafe\u0301", "Caf\u00e9", True), ("newyork", "New York", False), ("x\u00b2", "x2", False)]
)

# left, right -> same
SAME_STRICTLY: list[tuple[str, str, bool]] = (
    [(text, "18", True) for text in ("18", "$18", "18.", "18.0", "+18", " 18\n", "18$")]
    + [("1,080", "1080", True), ("-$5", "-5", True), ("a", " a\n", True)]
    + [(text, "18", False) for text in ("18 pens", "18%", "x = 18", "**18**", "\\boxed{18}", "= 18", "18,", "36/2")]
    + [("0.30000000000000004", "0.3", False), ("(A)", "A", False), ("paris", "Paris", False)]
)
