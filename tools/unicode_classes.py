#!/usr/bin/env python3
"""Writes the tables of src/tokenizer: characters as Hugging Face `tokenizers` sees them, asked of
the installed library so that both go by the same versions of Unicode.

unicode_class_table.inc: letters, marks, numbers and whitespace of its regular expressions
(Oniguruma), word characters of its single-word tokens. nfc_unknown_table.inc: characters that
combine in later versions of Unicode (those of the package unicodedata2) but not in its NFC.
"""
import pathlib

import unicodedata2
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "src/tokenizer"
POINTS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
BITS = {r"[\p{Lu}\p{Lt}]": 1, r"\p{Ll}": 2, r"[\p{Lm}\p{Lo}]": 4, r"\p{M}": 8, r"\p{N}": 16,
        r"\s": 32}
WORD = 64


def members(expression: str) -> set[int]:
    split = pre_tokenizers.Split(Regex(expression), "removed")
    rest = {ord(c) for piece, _ in split.pre_tokenize_str("".join(map(chr, POINTS))) for c in piece}
    return set(POINTS) - rest


def word_members() -> set[int]:
    tokenizer = Tokenizer(models.BPE(vocab={"x": 0}, merges=[]))
    tokenizer.add_tokens([AddedToken("<m>", single_word=True, normalized=False)])
    members = set()
    for start in range(0, len(POINTS), 4096):
        points = [c for c in POINTS[start:start + 4096]]
        # One token per character that is no word character; the offset says which.
        encoding = tokenizer.encode("".join(chr(c) + "<m> " for c in points))
        found = {offsets[0] // 5 for token, offsets in zip(encoding.ids, encoding.offsets)
                 if token == 1}
        members |= {c for i, c in enumerate(points) if i not in found}
    return members


def ranges(classes: dict[int, int]) -> list[tuple[int, int]]:
    """(first code point, class) wherever the class changes."""
    result = [(0, classes.get(0, 0))]
    for c in range(1, 0x110000):
        if classes.get(c, 0) != result[-1][1]:
            result.append((c, classes.get(c, 0)))
    return result


def nfc_unknown() -> set[int]:
    nfc = normalizers.NFC().normalize_str
    unknown = set()
    for c in POINTS:
        # A mark of class 240 before it and one of class 1 behind: it moves past one of them.
        for text in ("a\u0345" + chr(c), "a" + chr(c) + "\u0334"):
            if nfc(text) != unicodedata2.normalize("NFC", text):
                unknown.add(c)
        parts = unicodedata2.decomposition(chr(c)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            text = "".join(chr(int(part, 16)) for part in parts)
            composed = unicodedata2.normalize("NFC", text) == chr(c)
            if composed and nfc(text) != chr(c):
                unknown |= {c, ord(text[0])}
    return unknown


def write(name: str, what: str, entries: list[str]) -> None:
    lines, line = [], ""
    for entry in entries:
        if len(line) + len(entry) > 100:
            lines.append(line)
            line = ""
        line += entry
    text = f"// Written by tools/unicode_classes.py: {what}.\n" + "\n".join(lines + [line]) + "\n"
    (FOLDER / name).write_text(text)


def main() -> None:
    classes: dict[int, int] = {}
    for expression, bit in BITS.items():
        for c in members(expression):
            classes[c] = classes.get(c, 0) | bit
    for c in word_members():
        classes[c] = classes.get(c, 0) | WORD
    write("unicode_class_table.inc", "where the class changes, in order",
          [f"{{{first:#x},{bits}}}," for first, bits in ranges(classes)])
    changes = ranges({c: 1 for c in nfc_unknown()})
    write("nfc_unknown_table.inc", "first and last code point of each range, in order",
          [f"{{{first:#x},{changes[i + 1][0] - 1:#x}}}," for i, (first, bits) in enumerate(changes)
           if bits])


if __name__ == "__main__":
    main()
