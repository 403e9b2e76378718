"""Byte-level BPE of 4,096 tokens with Qwen2's pre-tokenizer: one digit is one token."""

import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import tasks
from words import ADJECTIVES, NAME_HEADS, NAME_TAILS, NOUNS

VOCAB_SIZE = 4096
END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIALS = (END_OF_TEXT, IM_START, IM_END)
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def task_text(seed, count):
    """`count` worlds as text, so that the tokenizer sees the words and sentences of the tasks."""
    rng, lines = random.Random(seed), []
    for _ in range(count):
        names = tasks.Names(rng)
        for task in tasks.TASKS:
            world = tasks.training_world(task, names, 800)
            lines += world.facts + [x for t in world.turns for x in (t.question, t.answer)]
    for word in ADJECTIVES:  # every word, with what may stand before it
        lines += [f" {word}"] * count
    for word in NOUNS:
        lines += [f" {word} -{word}"] * (count * 8)
    for head in NAME_HEADS:
        lines += [f" VAR {head}{tail}" for tail in NAME_TAILS] * max(1, count // 20)
    return lines


def with_qwen2_rules(tokenizer):
    """The tokenizer with Qwen2's pre-tokenizer and the byte-level decoder."""
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train(corpus_lines, vocab_size=VOCAB_SIZE, task_count=400):
    """A trained `tokenizers.Tokenizer`; ids 0.. are the bytes and merges, the specials come last.

    corpus_lines: iterable of str.
    """
    tokenizer = with_qwen2_rules(Tokenizer(models.BPE()))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIALS), show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))

    def lines():
        yield from task_text(1, task_count)
        yield from corpus_lines

    tokenizer.train_from_iterator(lines(), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIALS])
    return tokenizer


def chat(turns, system=None):
    """ChatML text of (role, content) pairs, ready for the assistant's answer."""
    turns = ([("system", system)] if system else []) + list(turns)
    text = "".join(f"{IM_START}{role}\n{content}{IM_END}\n" for role, content in turns)
    return text + f"{IM_START}assistant\n"


CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
