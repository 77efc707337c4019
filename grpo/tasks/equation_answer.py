"""An arithmetic expression as an answer: the game Countdown, with numbers to combine and a target to reach.

One of the types of grpo/tasks/answer_types.py, data.answer=equation. A row has the numbers in its column `numbers` (or
`nums`); the reference answer is the target. The expression is parsed with limits and evaluated exactly; nothing that a
policy wrote is executed. This module knows no reward and no prompt.
"""

import ast
import json
import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from fractions import Fraction
from typing import Any, ClassVar

from grpo.core.errors import UserError, no_column, shorten
from grpo.tasks.answer_type import FormatFirstAnswer
from grpo.tasks.example import Example
from grpo.tasks.wrappings import unwrapped

NUMBER_COLUMNS = ("numbers", "nums")
MAX_ANSWER = 500  # characters of an answer with the text around the expression
MAX_LENGTH = 200  # characters of an expression; it bounds the depth of its tree and the size of its value
_EXPRESSION = re.compile(r"[0-9+\-*/() ]+")
# Runs of the characters of an expression, with `=` and what models write for the four operations.
_EQUATION = re.compile(r"[0-9(][0-9+\-*/() =\u00d7\u00b7\u00f7\u2212]*")
_SYMBOLS = str.maketrans({"\u00d7": "*", "\u00b7": "*", "\u00f7": "/", "\u2212": "-", "\n": " ", "\t": " "})
_LATEX = [(re.compile(r"\\(?:times|cdot)(?![a-z])"), "*"), (re.compile(r"\\div(?![a-z])"), "/")]
_LATEX += [(re.compile(r"\\(?:left|right)(?=\s*[()])"), "")]
_LEAD = re.compile(r"^[A-Za-z ,'\u2019]*(?:\bis\b|:)\s*:?")  # such as `The answer is`
_VARIABLE = re.compile(r"[A-Za-z]+")
_OPERATIONS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.Div: lambda left, right: left / right,
}


class EquationAnswer(FormatFirstAnswer):
    """An expression of `+ - * /` and brackets that uses each of the numbers exactly once and equals the target.

    As in the recipe of TinyZero, every number must be used. The target may be the other side of an equation, and there
    may be markup around the answer, `x =` or `The answer is` before it.
    """

    name: ClassVar[str] = "equation"
    rule: ClassVar[str] = "is an expression that uses each number exactly once and equals the target"
    anywhere: ClassVar[str] = "the answer block, else the last expression anywhere"
    anywhere_label: ClassVar[str] = "last expression"

    def find_answer(self, completion: str) -> str | None:
        candidates = [match[0].strip() for match in _EQUATION.finditer(_without_latex(completion))]
        candidates = [text for text in candidates if re.search(r"[0-9)] *[+\-*/\u00d7\u00b7\u00f7\u2212]", text)]
        return candidates[-1] if candidates else None

    def matches(self, answer: str, example: Example) -> bool:
        numbers, target = problem_numbers(example), _whole_number(example.gold)
        expression, result = _sides(answer)
        if result is not None and result != target:
            return False
        used, value = evaluate_expression(expression)
        return value == target and Counter(used) == Counter(numbers)

    def voting_key(self, answer: str) -> Hashable:
        return "".join(_sides(answer)[0].split())

    def check_reference(self, example: Example) -> None:
        super().check_reference(example)
        if _whole_number(example.gold) is None:
            raise UserError(f"the reference answer {example.gold!r} is not a whole number; it is the target to reach.")
        problem_numbers(example)


def problem_numbers(example: Example) -> list[int]:
    """The numbers of a problem.

    Raises:
        UserError: the row has no column of numbers, or it holds something else.
    """
    columns: Mapping[str, Any] = example.columns
    for name in NUMBER_COLUMNS:
        if name in columns:
            numbers = [_whole_number(str(value)) for value in _listed_values(columns[name])]
            usable = [number for number in numbers if number is not None and number >= 0]
            if not usable or len(usable) < len(numbers):
                raise UserError(
                    f"'{name}' is {shorten(repr(columns[name]))}; it must be a list of whole numbers from 0."
                )
            if len("+".join(map(str, usable))) > MAX_LENGTH:
                raise UserError(
                    f"'{name}' has {len(usable)} numbers, too many for an expression of {MAX_LENGTH} characters."
                )
            return usable
    raise UserError(
        f"data.answer=equation needs the numbers of each problem: there is {no_column(columns, *NUMBER_COLUMNS)}."
    )


def _listed_values(value: Any) -> list[Any]:
    """The values of a list, or of its JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return []
    return list(value) if hasattr(value, "__iter__") else [value]


def _sides(answer: str) -> tuple[str, int | None]:
    """The expression in an answer without the text around it, and the whole number on the other side of `=`, if any."""
    if len(answer) > MAX_ANSWER:
        return answer, None
    text = _LEAD.sub("", unwrapped(answer), count=1).replace("==", "=")
    sides = [unwrapped(side).translate(_SYMBOLS) for side in _without_latex(unwrapped(text)).split("=")]
    if len(sides) > 1 and _VARIABLE.fullmatch(sides[0]):
        del sides[0]
    if len(sides) == 2:
        for expression, result in (sides, reversed(sides)):
            if (number := _whole_number(result)) is not None:
                return expression, number
    return "=".join(sides), None  # with an `=`, it is no expression


def _without_latex(text: str) -> str:
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    return text


def evaluate_expression(text: str) -> tuple[list[int], Fraction | None]:
    """The numbers in an expression of whole numbers, `+ - * /` and brackets, and its exact value.

    The value is None if the text is no such expression, is longer than `MAX_LENGTH`, or divides by zero.
    """
    if len(text) > MAX_LENGTH or not _EXPRESSION.fullmatch(text):
        return [], None
    used: list[int] = []
    try:
        return used, _value(ast.parse(text, mode="eval").body, used)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return [], None


def _value(node: ast.expr, used: list[int]) -> Fraction:
    match node:
        case ast.Constant(value=int(number)):
            used.append(number)
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, used)
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _OPERATIONS:
            return _OPERATIONS[type(operation)](_value(left, used), _value(right, used))
    raise ValueError(f"no arithmetic: {type(node).__name__}")


def _whole_number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\s*-?[0-9]{1,18}\s*", text) else None
