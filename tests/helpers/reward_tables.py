"""Tables of completion -> score: for the tests of the rewards, and of the calculator page, which scores the same."""

PERFECT = "<reasoning>\n8*3=24 pages.\n</reasoning>\n<answer>\n18\n</answer>\n"


def answered(answer: str) -> str:
    return f"<answer>{answer}</answer>"


# completion, gold -> score
CORRECTNESS = [
    (PERFECT, "18", 2.0),
    ("18", "18", 0.0),  # no block, no reward
    ("<answer>18", "18", 0.0),
    ("18</answer>", "18", 0.0),
    (answered(" 18\n"), "18", 2.0),
    (answered("18.0"), "18", 2.0),
    (answered("18."), "18", 2.0),
    (answered("18.5"), "18", 0.0),
    (answered("$18"), "18", 2.0),
    (answered("-$5"), "-5", 2.0),
    (answered("5"), "-5", 0.0),
    (answered("+5"), "5", 2.0),
    (answered("1,080"), "1080", 2.0),
    (answered("1080"), "1,080", 2.0),
    (answered("10,80"), "1080", 0.0),
    (answered("1 080"), "1080", 0.0),
    (answered("18 pages"), "18", 2.0),
    (answered("16, 17 or 18"), "18", 0.0),
    (answered("20%"), "20%", 2.0),
    (answered("0.3"), "0.30000000000000004", 2.0),
    (answered("1") + answered("18"), "18", 2.0),  # the last closed block counts
    (answered("18") + answered("1"), "18", 0.0),
    (answered("18") + "<answer>1", "18", 2.0),
    ("<answer>1" + answered("18"), "18", 2.0),
    (answered("18") + "</answer>", "18", 2.0),
    ("</answer>" + answered("18"), "18", 2.0),
    (answered(""), "18", 0.0),
    (answered(" Paris "), "Paris", 2.0),
    (answered("paris."), "Paris", 2.0),
    (answered("九"), "9", 0.0),
    (answered("١٨"), "18", 0.0),
    (answered("9" * 5000), "9" * 5000, 2.0),
]

# answer -> score
INT = [("18", 0.5), ("-5", 0.5), ("+5", 0.5), ("1,080", 0.5), ("12,345,678", 0.5), (" 18\n", 0.5), ("0", 0.5)] + [
    (wrong, 0.0)
    for wrong in ("10,80", "$18", "18.0", "1,0800", ",108", "²", "٣", "", "- 5", "18 pages", "--5", "**18**")
]

# settings, tokens -> overlong
OVERLONG = [
    # DAPO: 20,480 tokens, of which 16,384 are free
    (["max_completion_length=20480"], {0: 0.0, 16384: 0.0, 17408: -0.25, 18432: -0.5, 20480: -1.0}),
    (["reward_args.overlong.limit=100"], {80: 0.0, 90: -0.5, 100: -1.0, 256: -1.0}),
    (["reward_args.overlong.limit=100", "reward_args.overlong.free=0"], {1: -0.01, 50: -0.5}),
    (["max_completion_length=1"], {1: -1.0}),
]

# completion -> strict_format, soft_format
FORMATS = [
    (PERFECT, 0.5, 0.5),
    (PERFECT.removesuffix("\n"), 0.5, 0.5),
    (PERFECT + "\n", 0.0, 0.5),
    ("\n" + PERFECT, 0.0, 0.5),
    (PERFECT + "I hope this helps.", 0.0, 0.5),
    (PERFECT.replace("8*3", "8\n*3"), 0.5, 0.5),
    (PERFECT.replace("\n", "\r\n"), 0.0, 0.5),
    (PERFECT.replace("8*3=24 pages.", "思考一下。"), 0.5, 0.5),
    (PERFECT.replace("18", ""), 0.0, 0.0),
    (PERFECT.replace("18\n", ""), 0.0, 0.0),
    (PERFECT.replace("18", " \n\t"), 0.0, 0.0),
    (PERFECT.replace("\n18\n", ""), 0.0, 0.0),
    (PERFECT.replace("\n18\n", "") + PERFECT, 0.0, 0.5),
    (PERFECT.replace("18", "...") + "<answer></answer>", 0.0, 0.5),
    (PERFECT.replace("8*3=24 pages.", ""), 0.0, 0.0),
    (PERFECT.replace("8*3=24 pages.", " \n\t"), 0.0, 0.0),
    (PERFECT.replace("\n", ""), 0.0, 0.5),
    (PERFECT.replace("</reasoning>\n", "</reasoning>\n\n"), 0.0, 0.5),
    (PERFECT.replace("</reasoning>\n", "</reasoning>\nSo:\n"), 0.0, 0.0),
    (PERFECT + PERFECT, 0.0, 0.5),
    (PERFECT.replace("</reasoning>\n", ""), 0.0, 0.0),
    (PERFECT.replace("</answer>", ""), 0.0, 0.0),
    (PERFECT.replace("<reasoning>", " <reasoning>"), 0.0, 0.5),
    (PERFECT.replace("8*3", "<answer> 8*3"), 0.0, 0.5),
    ("<reasoning>a</reasoning> <reasoning>\n</reasoning><answer>18</answer>", 0.0, 0.0),
    ("<reasoning></reasoning> <reasoning>a</reasoning><answer>18</answer>", 0.0, 0.5),
    ("<answer>\n18\n</answer>\n<reasoning>\na\n</reasoning>\n", 0.0, 0.0),
    ("<answer>\n18\n</answer>\n", 0.0, 0.0),
    ("18", 0.0, 0.0),
    ("", 0.0, 0.0),
]

# completion -> score
XMLCOUNT = [
    (PERFECT, 0.5),
    (PERFECT.removesuffix("\n"), 0.5),  # a missing last line break costs nothing
    (PERFECT + "\n", 0.499),
    (PERFECT + "x" * 100, 0.4),
    (PERFECT + "x" * 10_000, 0.0),  # never below 0
    ("<reasoning>\na", 0.125),
    ("<reasoning>\na\n</reasoning>\n", 0.25),
    ("<reasoning> a </reasoning>", 0.0),
    (PERFECT + "<reasoning>\n", 0.375 - 0.012),
    ("18", 0.0),
    ("", 0.0),
]

# The faults of the widely copied originals: reward, completion -> score
VERBATIM = [
    ("verbatim_correctness", "18", 2.0),  # a bare number counts
    ("verbatim_correctness", PERFECT, 2.0),
    ("verbatim_correctness", answered("18.0"), 0.0),
    ("verbatim_int", "18", 0.5),
    ("verbatim_int", "²", 0.5),
    ("verbatim_int", "٣", 0.5),
    ("verbatim_int", "-5", 0.0),
    ("verbatim_int", "1,080", 0.0),
    ("verbatim_strict_format", PERFECT, 0.5),
    ("verbatim_strict_format", PERFECT.removesuffix("\n"), 0.0),
    ("verbatim_strict_format", PERFECT.replace("8*3", "8\n*3"), 0.0),  # no DOTALL
    ("verbatim_soft_format", PERFECT, 0.0),  # so never together with strict
    ("verbatim_soft_format", PERFECT.replace("\n", ""), 0.5),
    ("verbatim_xmlcount", PERFECT, 0.5),
    # 400 characters of reasoning, in the right format but for the last line break: the whole length is charged.
    ("verbatim_xmlcount", f"<reasoning>\n{'x' * 400}\n</reasoning>\n<answer>\n5\n</answer>", 0.055),
    ("verbatim_xmlcount", PERFECT + "x" * 100, 0.3),  # trailing text is charged twice
    ("verbatim_xmlcount", "x" * 1500 + "\n<answer>\n18\n</answer>", 0.251 - 1.522),
]
