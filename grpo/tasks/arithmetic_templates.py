"""The templates of the arithmetic dataset: functions that draw numbers, work them out, and write the question.

Called by grpo/tasks/arithmetic.py, which picks a template and builds the problem. The names of the functions are part
of the dataset: they decide which problems are held out.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

PEOPLE = [
    *((name, "she", "her", "her") for name in ("Joy", "Mia", "Ana", "Lily", "Sara", "Nina", "Emma", "Ruth")),
    *((name, "he", "his", "him") for name in ("Tom", "Ben", "Max", "Sam", "Leo", "Omar", "Jack", "Ravi")),
]
THINGS = ["pens", "apples", "books", "cards", "coins", "shells", "stamps", "marbles", "cookies", "stickers"]
OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": int.__add__,
    "-": int.__sub__,
    "*": int.__mul__,
    "/": int.__floordiv__,
}


class RejectedDraw(Exception):
    """The drawn numbers lead to a step that is not a whole number within the limits."""


@dataclass
class Draw:
    """The random numbers and names of one problem, and the solution that its template writes."""

    rng: random.Random
    max_number: int
    steps: list[tuple[int, str, int]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.name, self.he, self.his, self.him), (self.friend, *_) = self.rng.sample(PEOPLE, 2)
        self.things, self.others = self.rng.sample(THINGS, 2)

    def pick(self, *options: int) -> int:
        return self.rng.choice(options)

    def between(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)

    def step(self, left: int, operation: str, right: int, unit: str) -> int:
        """Write the line `left operation right = result unit.` and return the result.

        Raises:
            RejectedDraw: the result is not exact, or a number is outside 1..max_number.
        """
        result = OPERATIONS[operation](left, right)
        exact = operation != "/" or left % right == 0
        if not exact or not all(1 <= number <= self.max_number for number in (left, right, result)):
            raise RejectedDraw
        self.steps.append((left, operation, right))
        self.lines.append(f"{left}{operation}{right}={result} {unit}.")
        return result


Template = Callable[[Draw], str]
# number of steps -> templates
TEMPLATES: dict[int, list[Template]] = {1: [], 2: [], 3: [], 4: []}


def template(steps: int) -> Callable[[Template], Template]:
    """Register a template whose solution has `steps` steps."""

    def register(function: Template) -> Template:
        TEMPLATES[steps].append(function)
        return function

    return register


@template(steps=1)
def boxes(d: Draw) -> str:
    a, b = d.between(2, 12), d.between(2, 12)
    d.step(a, "*", b, d.things)
    return f"{d.name} has {a} boxes of {b} {d.things}. How many {d.things}?"


@template(steps=1)
def found_more(d: Draw) -> str:
    a, b = d.between(2, d.max_number), d.between(2, 40)
    d.step(a, "+", b, d.things)
    return f"{d.name} has {a} {d.things} and finds {b} more. How many {d.things} does {d.he} have?"


@template(steps=1)
def gave_away(d: Draw) -> str:
    a, b = d.between(2, d.max_number), d.between(2, 40)
    d.step(a, "-", b, d.things)
    return f"{d.name} has {a} {d.things} and gives {d.friend} {b}. How many {d.things} are left?"


@template(steps=1)
def shared(d: Draw) -> str:
    share, friends = d.between(2, 12), d.between(2, 12)
    d.step(share * friends, "/", friends, d.things)
    return f"{d.name} shares {share * friends} {d.things} among {friends} friends. How many {d.things} does each get?"


@template(steps=2)
def boxes_given_away(d: Draw) -> str:
    a, b, c = d.between(2, 12), d.between(2, 12), d.between(2, 40)
    d.step(d.step(a, "*", b, d.things), "-", c, f"{d.things} left")
    return (
        f"{d.name} has {a} boxes of {b} {d.things}. {d.he.capitalize()} gives {c} {d.things} to {d.friend}. "
        f"How many {d.things} are left?"
    )


@template(steps=2)
def boxes_and_loose(d: Draw) -> str:
    a, b, c = d.between(2, 12), d.between(2, 12), d.between(2, 40)
    d.step(d.step(a, "*", b, d.things), "+", c, f"{d.things} in all")
    return f"{d.name} buys {a} boxes of {b} {d.things} and {c} loose {d.things}. How many {d.things} does {d.he} have?"


@template(steps=2)
def half_as_many(d: Draw) -> str:
    april = 2 * d.between(2, d.max_number // 3)
    d.step(april, "+", d.step(april, "/", 2, f"{d.things} in May"), f"{d.things} in all")
    return (
        f"{d.name} sold {april} {d.things} in April and half as many in May. "
        f"How many {d.things} did {d.he} sell in all?"
    )


@template(steps=2)
def times_as_many(d: Draw) -> str:
    a, times = d.between(2, 30), d.between(2, 6)
    d.step(a, "+", d.step(a, "*", times, f"{d.things} for the friend"), f"{d.things} together")
    return (
        f"{d.name} has {a} {d.things}, and a friend has {times} times as many. "
        f"How many {d.things} do they have together?"
    )


@template(steps=2)
def saving_up(d: Draw) -> str:
    savings, weekly, weeks = d.between(5, 50), d.between(2, 12), d.between(2, 12)
    price = savings + weekly * weeks
    d.step(d.step(price, "-", savings, "dollars to save"), "/", weekly, "weeks")
    return (
        f"A bike costs ${price}. {d.name} has ${savings} and saves ${weekly} each week. "
        f"How many weeks until {d.he} can buy the bike?"
    )


@template(steps=2)
def walking_rate(d: Draw) -> str:
    minutes, distance = d.pick(5, 6, 10, 12, 15, 20, 30), d.between(1, 12)
    d.step(distance, "*", d.step(60, "/", minutes, "times an hour"), "miles an hour")
    return f"{d.name} rides {distance} miles in {minutes} minutes. How many miles does {d.he} ride in an hour?"


@template(steps=2)
def drive(d: Draw) -> str:
    speed, hours, more = d.between(5, 60), d.between(2, 9), d.between(2, 40)
    d.step(d.step(speed, "*", hours, "miles"), "+", more, "miles in all")
    return f"{d.name} drives {speed} miles an hour for {hours} hours and then {more} miles more. How far is that?"


@template(steps=3)
def reading_rate(d: Draw) -> str:
    minutes, pages, hours = d.pick(10, 12, 15, 20, 30), d.between(2, 12), d.between(2, 12)
    total = pages * (60 // minutes) * hours
    hourly = d.step(pages, "*", d.step(60, "/", minutes, "times an hour"), "pages an hour")
    d.step(total, "/", hourly, "hours")
    return (
        f"{d.name} can read {pages} pages of a book in {minutes} minutes. "
        f"How many hours will it take {d.him} to read {total} pages?"
    )


@template(steps=3)
def filling_rate(d: Draw) -> str:
    minutes, liters, hours = d.pick(10, 12, 15, 20, 30), d.between(2, 12), d.between(2, 8)
    hourly = d.step(liters, "*", d.step(60, "/", minutes, "times an hour"), "liters an hour")
    d.step(hourly, "*", hours, "liters")
    return f"A tap fills {liters} liters in {minutes} minutes. How many liters does it fill in {hours} hours?"


@template(steps=3)
def change(d: Draw) -> str:
    count, price, note = d.between(2, 10), d.between(2, 10), d.between(2, 20)
    pays = d.pick(50, 100)
    cost = d.step(d.step(count, "*", price, "dollars"), "+", note, "dollars to pay")
    d.step(pays, "-", cost, "dollars back")
    return (
        f"{d.name} buys {count} {d.things} at ${price} each and a bag for ${note}. "
        f"{d.he.capitalize()} pays with ${pays}. How much change does {d.he} get?"
    )


@template(steps=3)
def leftovers_shared(d: Draw) -> str:
    bags, friends, share, eaten = d.between(2, 12), d.between(2, 10), d.between(2, 12), d.between(2, 20)
    if (friends * share + eaten) % bags:
        raise RejectedDraw
    size = (friends * share + eaten) // bags
    left = d.step(d.step(bags, "*", size, d.things), "-", eaten, f"{d.things} left")
    d.step(left, "/", friends, f"{d.things} each")
    return (
        f"{d.name} has {bags} bags of {size} {d.things}. {d.he.capitalize()} loses {eaten} and shares the rest among "
        f"{friends} friends. How many {d.things} does each friend get?"
    )


@template(steps=3)
def garden(d: Draw) -> str:
    a, b, e, f = d.between(2, 10), d.between(2, 12), d.between(2, 10), d.between(2, 12)
    d.step(d.step(a, "*", b, "roses"), "+", d.step(e, "*", f, "tulips"), "flowers")
    return f"{d.name} plants {a} rows of {b} roses and {e} rows of {f} tulips. How many flowers does {d.he} plant?"


@template(steps=3)
def baking(d: Draw) -> str:
    trays, pack, packs, price = d.between(2, 10), d.between(2, 10), d.between(2, 12), d.between(2, 9)
    if (pack * packs) % trays:
        raise RejectedDraw
    size = pack * packs // trays
    count = d.step(d.step(trays, "*", size, "cookies"), "/", pack, "packs")
    d.step(count, "*", price, "dollars")
    return (
        f"{d.name} bakes {trays} trays of {size} cookies and sells them in packs of {pack} for ${price} a pack. "
        f"How much money does {d.he} make?"
    )


@template(steps=3)
def ages(d: Draw) -> str:
    age, older, times, years = d.between(2, 12), d.between(2, 12), d.between(2, 4), d.between(2, 20)
    mother = d.step(d.step(age, "+", older, "for the sister"), "*", times, "for the mother")
    d.step(mother, "+", years, "years old")
    return (
        f"{d.name} is {age} years old. A sister is {older} years older, and their mother is {times} times as old as "
        f"the sister. How old will the mother be in {years} years?"
    )


@template(steps=3)
def teams(d: Draw) -> str:
    tables, seats, size, count = d.between(2, 10), d.between(2, 10), d.between(2, 10), d.between(2, 14)
    joined = size * count - tables * seats
    students = d.step(d.step(tables, "*", seats, "students"), "+", joined, "students in all")
    d.step(students, "/", size, "teams")
    return (
        f"There are {tables} tables of {seats} students, and {joined} more students join. They make teams of {size}. "
        f"How many teams are there?"
    )


@template(steps=4)
def tickets(d: Draw) -> str:
    adults, adult, children, child = d.between(2, 6), d.between(5, 15), d.between(2, 8), d.between(2, 9)
    snacks = d.between(2, 30)
    seats = d.step(d.step(adults, "*", adult, "dollars"), "+", d.step(children, "*", child, "dollars"), "for tickets")
    d.step(seats, "+", snacks, "dollars in all")
    return (
        f"{adults} adults pay ${adult} each and {children} children pay ${child} each to see a film. "
        f"Snacks cost ${snacks} more. How much do they pay in all?"
    )


@template(steps=4)
def eggs(d: Draw) -> str:
    hens, laid, eaten, price, days = (
        d.between(2, 10),
        d.between(2, 6),
        d.between(2, 10),
        d.between(1, 5),
        d.between(2, 7),
    )
    daily = d.step(d.step(hens, "*", laid, "eggs"), "-", eaten, "eggs sold")
    d.step(d.step(daily, "*", price, "dollars a day"), "*", days, "dollars")
    return (
        f"{d.name} has {hens} hens that lay {laid} eggs each a day. {d.he.capitalize()} eats {eaten} eggs a day and "
        f"sells the rest for ${price} each. How much money does {d.he} make in {days} days?"
    )


@template(steps=4)
def road_trip(d: Draw) -> str:
    budget, days, per_gallon = d.pick(50, 60, 80, 100), d.between(2, 8), d.pick(5, 8, 10, 12, 15, 20)
    gallons, price = d.between(2, 12), d.between(2, 6)
    if (per_gallon * gallons) % days:
        raise RejectedDraw
    daily = per_gallon * gallons // days
    used = d.step(d.step(days, "*", daily, "miles"), "/", per_gallon, "gallons")
    d.step(budget, "-", d.step(used, "*", price, "dollars for gas"), "dollars left")
    return (
        f"{d.name} has ${budget} for a trip of {days} days with {daily} miles each. The car goes {per_gallon} miles on "
        f"a gallon of gas, which costs ${price}. How much money is left?"
    )
