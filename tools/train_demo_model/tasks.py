"""Generated tasks: facts to scatter over a haystack, and questions with one exact answer each.

Every builder takes a seeded `random.Random` and returns a `World`; the same seed gives the same
world. A world's facts keep their order when they are scattered (multi-value answers are in
document order, and an assignment follows the one it refers to); worlds may be interleaved freely.
"""

import random
import uuid
from dataclasses import dataclass, field

from words import ADJECTIVES, NAME_HEADS, NAME_TAILS, NOUNS

TASKS = ("needle", "multi_value", "variable_tracking", "room_chain", "ledger")


@dataclass
class Turn:
    """One question and its answer; `task` is an entry of TASKS."""

    task: str
    question: str
    answer: str


@dataclass
class World:
    """Facts (each a sentence with its full stop) and the turns that ask about them."""

    facts: list = field(default_factory=list)
    turns: list = field(default_factory=list)


class Names:
    """Draws keys, names and numbers without repeating one within a haystack."""

    def __init__(self, rng, wide_words=(), wide_share=0.0):
        self.rng = rng
        self.wide_words = wide_words
        self.wide_share = wide_share if wide_words else 0.0
        self.used = set()

    def fresh(self, kind, draw):
        """A value of `draw()` not seen before for `kind`."""
        while True:
            value = draw()
            if (kind, value) not in self.used:
                self.used.add((kind, value))
                return value

    def word(self, words):
        """A word of the list, or, for a share of the draws, any frequent word of the corpus."""
        if self.wide_share and self.rng.random() < self.wide_share:
            return self.rng.choice(self.wide_words)
        return self.rng.choice(words)

    def key(self):
        """A key in RULER's style, adjective-noun."""
        return self.fresh("key", lambda: self.word(ADJECTIVES) + "-" + self.word(NOUNS))

    def noun(self, kind):
        """A noun that was not drawn before for the same kind."""
        return self.fresh(kind, lambda: self.word(NOUNS))

    def variable(self):
        """Five capital letters."""
        rng = self.rng
        if self.wide_share and rng.random() < self.wide_share / 2:
            return self.fresh("var", lambda: "".join(chr(65 + rng.randrange(26)) for _ in range(5)))
        return self.fresh("var", lambda: rng.choice(NAME_HEADS) + rng.choice(NAME_TAILS))

    def digits(self, count):
        """A number of exactly `count` digits."""
        low = 10 ** (count - 1)
        return self.fresh(count, lambda: str(self.rng.randrange(low, 10 * low)))

    def value(self, style):
        """A needle's value: `style` is numbers, words or uuids."""
        if style == "numbers":
            return self.digits(7)
        if style == "words":
            return self.fresh("word", lambda: self.word(ADJECTIVES) + "-" + self.word(NOUNS))
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))


def needles(names, style="numbers", values_per_key=(1,)):
    """RULER's needles; key i has values_per_key[i] values, listed in document order."""
    one = style[:-1]
    rng, world, found = names.rng, World(), {}
    keys = [names.key() for _ in values_per_key]
    order = [key for key, count in zip(keys, values_per_key) for _ in range(count)]
    rng.shuffle(order)
    for key in order:
        value = names.value(style)
        found.setdefault(key, []).append(value)
        world.facts.append(f"One of the special magic {style} for {key} is: {value}.")
    for key in keys:
        place = "mentioned in the provided text"
        if len(found[key]) == 1:
            world.turns.append(Turn(
                "needle", f"What is the special magic {one} for {key} {place}?",
                f"The special magic {one} for {key} {place} is {found[key][0]}."))
        else:
            world.turns.append(Turn(
                "multi_value", f"What are all the special magic {style} for {key} {place}?",
                f"The special magic {style} for {key} {place} are {', '.join(found[key])}."))
    return world


def variable_tracking(names, chains=1, hops=4):
    """RULER's chains of assignments: VAR B = VAR A comes after VAR A = 12345 in the text."""
    world, pending = World(), []
    for _ in range(chains):
        value, variables = names.digits(5), [names.variable() for _ in range(hops + 1)]
        facts = [f"VAR {variables[0]} = {value}."]
        facts += [f"VAR {b} = VAR {a}." for a, b in zip(variables, variables[1:])]
        pending.append(facts)
        world.turns.append(Turn(
            "variable_tracking",
            f"Find all variables that are assigned the value {value} in the text above.",
            f"The variables that are assigned the value {value} are: {', '.join(variables)}."))
    while pending:
        facts = names.rng.choice(pending)
        world.facts.append(facts.pop(0))
        pending = [rest for rest in pending if rest]
    return world


def room_chains(names, lengths=(12,)):
    """Paths through rooms, their doors told in any order; one path for each length (in doors)."""
    world = World()
    for length in lengths:
        rooms = [names.noun("room") for _ in range(length + 1)]
        world.facts += [f"Room {a} leads to room {b}." for a, b in zip(rooms, rooms[1:])]
        world.turns.append(Turn(
            "room_chain", f"Start in room {rooms[0]} and follow the doors to the end. "
            "Which rooms do you pass, in order?",
            f"The path is: {' -> '.join(rooms)}."))
    names.rng.shuffle(world.facts)
    return world


def ledger(names, entries=40, ranges=1):
    """Numbered entries told in any order; each question asks for a run of them, in order."""
    rng, world = names.rng, World()
    first = rng.randrange(10, 100 - entries)
    lines = [f"{first + i}: {names.noun('ledger')} {rng.randrange(10, 100)}"
             for i in range(entries)]
    world.facts = [f"Ledger entry {line}." for line in lines]
    rng.shuffle(world.facts)
    cuts = [0] + sorted(rng.sample(range(1, entries), ranges - 1)) + [entries]
    for low, high in zip(cuts, cuts[1:]):
        world.turns.append(Turn(
            "ledger", f"Write out the ledger entries {first + low} to {first + high - 1} in order.",
            "\n".join(lines[low:high])))
    rng.shuffle(world.turns)
    return world


def evaluation_world(task, names):
    """The world and the one asked turn of an evaluation sample; names as in EVALUATION."""
    rng = names.rng
    if task.startswith("needle_"):
        world = needles(names, task.split("_")[1], [1] * 24)
    elif task == "multi_value":
        world = needles(names, "numbers", [4])
    elif task == "multi_value_3_keys":
        world = needles(names, "numbers", [4, 4, 4])
    elif task == "variable_tracking":
        world = variable_tracking(names)
    elif task == "variable_tracking_3_chains":
        world = variable_tracking(names, chains=3)
    elif task == "room_chain":
        asked = rng.randrange(12, 21)
        world = room_chains(names, [asked, 24 - asked])
    elif task == "ledger":
        world = ledger(names)
    else:
        raise ValueError(f"unknown evaluation task {task!r}")
    turn = world.turns[0] if task in ("room_chain", "ledger") else rng.choice(world.turns)
    return world, turn


# 24 needles, one asked; RULER's multi-value (one key, 4 values) and variable tracking (one chain,
# 4 hops), and each again among two more of its kind; 24 doors, 12 to 20 on the path; 40 entries.
EVALUATION = ("needle_numbers", "needle_words", "needle_uuids", "multi_value",
              "multi_value_3_keys", "variable_tracking", "variable_tracking_3_chains",
              "room_chain", "ledger")


def training_world(task, names, room):
    """A world of random size; `room` is how many tokens its facts may take, roughly."""
    rng = names.rng
    if task == "needle":
        style = rng.choice(("numbers", "numbers", "words", "uuids"))
        most = max(1, room // (36 if style == "uuids" else 20))
        return needles(names, style, [1] * rng.randint(1, min(24, most)))
    if task == "multi_value":
        style = rng.choice(("numbers", "numbers", "numbers", "words"))
        counts, most = [], max(2, room // 20)
        for _ in range(rng.randint(1, 6)):
            counts.append(rng.choice((2, 3, 4, 4, 4, 5)))
        while sum(counts) > most and len(counts) > 1:
            counts.pop()
        return needles(names, style, [min(counts[0], most)] + counts[1:])
    if task == "variable_tracking":
        hops = rng.choice((1, 2, 3, 4, 4, 4, 4, 5))
        most = max(1, room // (9 * (hops + 1)))
        return variable_tracking(names, rng.randint(1, min(8, most)), hops)
    if task == "room_chain":
        lengths, left = [], max(3, min(48, room // 7))
        for _ in range(rng.randint(1, 4)):
            if left >= 2:
                lengths.append(rng.randint(2, min(24, left)))
                left -= lengths[-1]
        return room_chains(names, lengths)
    entries = rng.randint(3, max(3, min(48, room // 9)))
    return ledger(names, entries, rng.randint(1, min(3, entries)))
