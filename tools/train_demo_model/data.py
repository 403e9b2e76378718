"""Training sequences and evaluation prompts: facts in a haystack of book text, then questions.

A sequence is the tokens of a ChatML conversation. The first user turn is the document, an empty
line and a question; every further user turn is a question. A token's class says what it is as a
target: 0 is not trained on (facts are random), 1 is text, 2.. are answers, in tasks.TASKS' order.
"""

import collections
import concurrent.futures
import itertools
import lzma
import os
import random
import re

import numpy as np
import torch
from tokenizers import Tokenizer

import tasks
from tokenizer import END_OF_TEXT, IM_END, IM_START

IGNORED, TEXT = 0, 1
CLASSES = ("ignored", "text") + tasks.TASKS
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
PREAMBLES = (
    "Some special magic numbers are hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the numbers afterwards.\n",
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n",
    "Read the following text and answer the questions after it.\n\n")
SHARES = {"needle": 0.16, "multi_value": 0.24, "variable_tracking": 0.26, "room_chain": 0.18,
          "ledger": 0.16}


def read_books(path):
    """Documents of a text file (or .xz) in which a line `<|endoftext|>` ends each."""
    opened = lzma.open if path.endswith(".xz") else open
    with opened(path, "rt", encoding="utf-8") as file:
        documents = file.read().split(END_OF_TEXT)
    return [d.strip("\n") + "\n" for d in documents if d.strip()]


def frequent_words(documents, count=4000):
    """The most frequent lower-case words of four letters or more."""
    seen = collections.Counter()
    for document in documents[::6]:
        seen.update(re.findall(r"(?<= )[a-z]{4,10}(?= )", document[:200000]))
    return [word for word, _ in seen.most_common(count)]


def _encode_file(job):
    tokenizer_path, text = job
    tokenizer = Tokenizer.from_file(tokenizer_path)
    lines = text.splitlines(keepends=True)
    parts, block = [], []
    for line in lines:  # cut only before a line that starts with a letter: the tokens are the same
        if len(block) > 200 and line[:1].isalpha():
            parts.append("".join(block))
            block = []
        block.append(line)
    parts.append("".join(block))
    ids = [i for part in parts for i in tokenizer.encode(part, add_special_tokens=False).ids]
    return np.array(ids + [tokenizer.token_to_id(END_OF_TEXT)], np.uint16)


def encode_books(documents, tokenizer_path, processes):
    """uint16 [n]: the tokens of all documents, each ended by <|endoftext|>."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    jobs = [(tokenizer_path, d) for d in documents]
    with concurrent.futures.ProcessPoolExecutor(processes) as pool:
        return np.concatenate(list(pool.map(_encode_file, jobs)))


class Corpus:
    """Book tokens, and where a fact may be put between two of them."""

    def __init__(self, tokens, tokenizer, wide_words=()):
        self.tokens, self.tokenizer, self.wide_words = tokens, tokenizer, list(wide_words)
        size = tokenizer.get_vocab_size()
        text = [tokenizer.decode([i], skip_special_tokens=False) for i in range(size)]
        self.end = tokenizer.token_to_id(END_OF_TEXT)
        self.stop = tokenizer.token_to_id(IM_END)
        self.dot = tokenizer.token_to_id(".")
        starts_word = np.array([len(t) > 1 and t[0] == " " and t[1].isalpha() for t in text])
        starts_plain = np.array([t[:1].isalnum() for t in text])
        ends_line = np.array([t.endswith("\n") for t in text])
        self.tables = starts_word, starts_plain, ends_line
        self.lines = self.line_starts(tokens)
        self.noise = [self.encode([NOISE + " " + NOISE])[0][len(self.encode([NOISE])[0]):],
                      self.encode([NOISE + "\n"])[0]]

    def encode(self, texts):
        """Token lists of several texts; special tokens in them are recognised."""
        return [e.ids for e in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def line_starts(self, ids):
        """Places p such that ids[p-1] ends a line and ids[p] starts with a letter or digit."""
        _, plain, line = self.tables
        return np.flatnonzero(line[ids[:-1]] & plain[ids[1:]]) + 1

    def sentence_starts(self, ids):
        """Places p such that ids[p-1] is a full stop and ids[p] a space and a letter."""
        word, _, _ = self.tables
        return np.flatnonzero((ids[:-1] == self.dot) & word[ids[1:]]) + 1

    def split(self, share):
        """(training corpus, held-out corpus): the last `share` of the tokens is held out."""
        cut = int(len(self.tokens) * (1 - share))
        return (Corpus(self.tokens[:cut], self.tokenizer, self.wide_words),
                Corpus(self.tokens[cut:], self.tokenizer, self.wide_words))

    def slice(self, rng, length):
        """`length` tokens of book text from the start of some line on, uint16."""
        last = np.searchsorted(self.lines, len(self.tokens) - length - 8)
        start = self.lines[rng.randrange(max(1, last))]
        ids = self.tokens[start:start + length + 8]
        return ids[ids != self.end][:length]

    def filler(self, rng, length, noise_share):
        """At most `length` tokens that end with a full stop: book text or RULER's noise."""
        if rng.random() < noise_share:
            one = self.noise[rng.randrange(2)]
            ids = np.tile(np.array(one, np.uint16), length // len(one) + 2)[:length]
        else:
            ids = self.slice(rng, length)
        stops = np.flatnonzero(ids == self.dot)
        return ids[:stops[-1] + 1] if len(stops) else ids[:0]


def interleave(rng, worlds):
    """All facts of the worlds in a random order that keeps each world's own."""
    order = [i for i, w in enumerate(worlds) for _ in w.facts]
    rng.shuffle(order)
    queues = [iter(w.facts) for w in worlds]
    return [next(queues[i]) for i in order]


def scatter(rng, corpus, facts, inline, filler, style):
    """(tokens, classes) of the filler with the facts in order; style inline, line or mixed.

    facts: list of str; inline: their tokens after a space. A fact stands after a full stop or on
    a line of its own, so the result is what the tokenizer makes of its text.
    """
    lines, sentences = corpus.line_starts(filler), corpus.sentence_starts(filler)
    places = {"line": lines, "inline": sentences, "mixed": np.concatenate((lines, sentences))}
    places = places[style] if len(places[style]) else places["mixed"]
    places = np.sort(places[[rng.randrange(len(places)) for _ in facts]] if len(places)
                     else np.zeros(len(facts), int)).tolist()
    own_line = [p == 0 or bool(corpus.tables[2][filler[p - 1]]) for p in places]
    as_lines = iter(corpus.encode([f + "\n" for f, own in zip(facts, own_line) if own]))
    out, classes, last, book = [], [], 0, filler.tolist()
    for place, own, tokens in zip(places, own_line, inline):
        tokens = next(as_lines) if own else tokens
        out += book[last:place] + tokens
        classes += [TEXT] * (place - last) + [IGNORED] * len(tokens)
        last = place
    return out + book[last:], classes + [TEXT] * (len(book) - last)


def turn_texts(turn, first):
    """(text up to the answer, answer with its end) of a turn after the document or the last."""
    lead = ".\n\n" if first else f"\n{IM_START}user\n"
    return (f"{lead}{turn.question}{IM_END}\n{IM_START}assistant\n", f"{turn.answer}{IM_END}")


def prompt_text(document, question):
    """The prompt that asks one question about a document, up to the answer."""
    return (f"{IM_START}user\n{document}\n\n{question}{IM_END}\n{IM_START}assistant\n")


def conversation(rng, corpus, worlds, turns, length, style, preamble=None, noise_share=0.0):
    """(tokens, classes) of at most `length` tokens, or None where the facts do not fit."""
    facts = interleave(rng, worlds)
    inline = corpus.encode([" " + f for f in facts])
    opening = f"{IM_START}user\n" + (PREAMBLES[preamble] if preamble is not None else "")
    texts = [opening] + [t for i, turn in enumerate(turns) for t in turn_texts(turn, i == 0)]
    encoded = corpus.encode(texts)
    # A fact on a line of its own can be a token longer than after a full stop.
    room = length - sum(map(len, inline)) - len(facts) - sum(map(len, encoded))
    filler = corpus.filler(rng, room, noise_share) if room >= 32 else []
    if len(filler) < 2:
        return None
    tokens, classes = scatter(rng, corpus, facts, inline, filler, style)
    tokens = encoded[0] + tokens[:-1]  # the last full stop is the first character of turn 1
    classes = [IGNORED] * len(encoded[0]) + classes[:-1]
    for turn, lead, answer in zip(turns, encoded[1::2], encoded[2::2]):
        tokens += lead + answer
        classes += [TEXT] * len(lead) + [2 + tasks.TASKS.index(turn.task)] * len(answer)
    return tokens, classes


def training_sequence(rng, corpus, length):
    """tokens uint16 [length + 1], classes uint8 [length + 1] of one training sequence."""
    tokens = np.full(length + 1, corpus.end, np.uint16)
    classes = np.zeros(length + 1, np.uint8)
    if rng.random() < 0.12:
        ids = corpus.slice(rng, length + 1)
        tokens[:len(ids)], classes[:len(ids)] = ids, TEXT
        return tokens, classes
    most = 3 if length <= 512 else 5 if length <= 1024 else 8 if length <= 4096 else 12
    while True:
        names = tasks.Names(rng, corpus.wide_words, 0.25)
        kinds = rng.choices(list(SHARES), list(SHARES.values()), k=rng.randint(1 + most // 4, most))
        while kinds.count("ledger") > 1:
            kinds.remove("ledger")
        while kinds.count("room_chain") > 2:
            kinds.remove("room_chain")
        room = min(length * rng.uniform(0.15, 0.6), 9000) / len(kinds)
        worlds = [tasks.training_world(kind, names, int(room)) for kind in kinds]
        turns = [t for w in worlds for t in w.turns]
        rng.shuffle(turns)
        budget, kept = min(0.45 * length, 6000), []
        for turn in turns:
            budget -= (len(turn.question) + 1.6 * len(turn.answer)) / 3 + 10
            if budget > 0 or not kept:
                kept.append(turn)
        preamble = rng.randrange(3) if rng.random() < 0.15 else None
        style = rng.choice(("inline", "inline", "line", "mixed"))
        made = conversation(rng, corpus, worlds, kept, length + 1, style, preamble, 0.1)
        if made:
            break
    count = len(made[0])
    tokens[:count], classes[:count] = made
    return tokens, classes


class Batches(torch.utils.data.IterableDataset):
    """Endless batches: tokens int16 [B, length + 1] and classes uint8 [B, length + 1]."""

    def __init__(self, corpus, length, batch, seed):
        self.corpus, self.length, self.batch, self.seed = corpus, length, batch, seed

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        worker = info.id if info else 0
        for count in itertools.count():
            rng = random.Random(f"{self.seed} {self.length} {worker} {count}")
            made = [training_sequence(rng, self.corpus, self.length) for _ in range(self.batch)]
            tokens, classes = (np.stack(x) for x in zip(*made))
            yield torch.from_numpy(tokens.astype(np.int16)), torch.from_numpy(classes)


def loader(corpus, length, batch, seed, processes):
    """An iterator over Batches made by `processes` processes (0: in this one)."""
    extra = {"prefetch_factor": 4, "persistent_workers": False} if processes else {}
    return iter(torch.utils.data.DataLoader(
        Batches(corpus, length, batch, seed), batch_size=None, num_workers=processes,
        pin_memory=torch.cuda.is_available(), **extra))


def evaluation_sample(corpus, task, seed, length):
    """(prompt tokens, answer text): together at most `length` tokens, and close to it."""
    rng = random.Random(f"evaluation {task} {seed} {length}")
    world, turn = tasks.evaluation_world(task, tasks.Names(rng))
    for _ in range(20):  # the held-out text may have no full stop in a very short slice
        made = conversation(rng, corpus, [world], [turn], length, ("inline", "line")[seed % 2])
        if made:
            break
    else:
        raise ValueError(f"the facts of {task} do not fit into {length} tokens")
    return made[0][:made[1].index(2 + tasks.TASKS.index(turn.task))], turn.answer
