#!/usr/bin/env python3
"""Token ids and decoded texts against Hugging Face `tokenizers`: zero differences.

For every form of tokenizer_forms.py, and the two published GGUF vocabularies: a part of the book corpus, random Unicode of all planes, the
published vectors, and added tokens in odd places. Ids are compared with control tokens parsed and
the bos token added, and with control tokens as text. Decoded texts are compared wherever the
library's own is not lossy (it replaces incomplete characters). --full takes 12 MB of books.
"""
import argparse
import json
import lzma
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

from tokenizer_forms import FORMS, VOCAB

ROOT = pathlib.Path(__file__).resolve().parents[2]
BOOKS = ROOT / "../shared/data/books.txt.xz"
SEED = 5
AS_GGUF = {"gpt-2": "gpt-2.gguf", "llama-2": "llama-spm.gguf"}  # the same vocabularies

SPACES = [chr(c) for c in (9, 10, 11, 12, 13, 28, 31, 32, 32, 32, 0x85, 0xA0, 0x1680, 0x180E, 0x2000,
                           0x2003, 0x200A, 0x200B, 0x2028, 0x2029, 0x202F, 0x205F, 0x2060, 0x3000,
                           0xFEFF)]
JOINED = ["👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇫🇷", "1️⃣", "❤️", "🧑‍🚀"]
WORDS = ["the", " The", "don't", "DON'T", "it'S", "we'LL", "I'ſ", " 1234567", "3.14", "x86_64", "▁",
         "▁▁a", " ▁", "e\u0301t", "é", "ﬁ", "\u1e9b\u0323", "한국어", "\u1112\u1161\u11ab", "日本語ABCabc",
         "ǅungla", "Ⅷ", "½", "٣٤", "//", "\n/", "\r\n", "<0x0A>", "<0x41>", "<s", "s>", "in\u200dput",
         "\u0000", "\u007f", "\ufffd", "\U00011935\U00011930", "\U000105d2\u0307", "word", "Mask"]


def random_character(rng: random.Random) -> str:
    kind = rng.randrange(8)
    if kind == 0:
        code = rng.randrange(0x110000)
    elif kind == 1:
        code = rng.randrange(0x300, 0x370)  # combining marks
    elif kind == 2:
        code = rng.randrange(0x20000, 0x32400)
    elif kind == 3:
        code = rng.randrange(0x80, 0x2000)
    elif kind == 4:
        code = rng.randrange(0x2000, 0x3400)
    elif kind == 5:
        code = rng.randrange(0x10000, 0x1FFFF)
    elif kind == 6:
        code = rng.randrange(0x80)
    else:
        code = rng.choice([*range(0xA000, 0xD7B0), *range(0xF900, 0x10000)])
    return chr(code) if not 0xD800 <= code <= 0xDFFF else " "


def random_texts(rng: random.Random, tokens: list[str], count: int) -> list[str]:
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(rng.randrange(1, 40)):
            kind = rng.randrange(10)
            if kind < 3:
                parts.append(random_character(rng))
            elif kind < 5:
                parts.append(rng.choice(SPACES) * rng.choice((1, 1, 2, 5)))
            elif kind < 7:
                parts.append(rng.choice(WORDS))
            elif kind == 7:
                parts.append(rng.choice(JOINED))
            elif kind == 8:
                token = rng.choice(tokens)
                parts.append(token[:rng.randrange(1, len(token) + 1)] if rng.random() < 0.3 else token)
            else:
                parts.append("".join(random_character(rng) for _ in range(rng.randrange(1, 9))))
        texts.append("".join(parts))
    # Each character once beside letters, digits and spaces: all of Unicode in some 20 texts.
    every = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    sampled = rng.sample(every, 30000)
    return texts + ["".join(f"a{c}B {c}1" for c in sampled[i:i + 2000])
                    for i in range(0, len(sampled), 2000)]


def book_texts(megabytes: float) -> list[str]:
    with lzma.open(BOOKS) as file:
        text = file.read(int(megabytes * 1e6)).decode(errors="ignore")
    return [text[i:i + 20000] for i in range(0, len(text), 20000)]


def vectors() -> list[str]:
    cases = (VOCAB / "llama-bpe.gguf.inp").read_text().split("\n__ggml_vocab_test__\n")
    return cases[:-1]


def ours(program: pathlib.Path, model: pathlib.Path, texts: list[bytes]) -> list[tuple]:
    given = b"".join(struct.pack("I", len(text)) + text for text in texts)
    done = subprocess.run([program, model], input=given, capture_output=True)
    if done.returncode != 0:
        sys.exit(f"dump_tokens {model}: {done.stderr.decode().strip()}")
    out, at, results = done.stdout, 0, []
    for _ in texts:
        fields = []
        for width in (4, 4, 1, 1):
            (count,) = struct.unpack_from("I", out, at)
            data = out[at + 4:at + 4 + count * width]
            at += 4 + count * width
            fields.append(list(struct.unpack(f"{count}i", data)) if width == 4 else data)
        results.append(tuple(fields))
    assert at == len(out), f"{len(out) - at} bytes after the last text"
    return results


def first_difference(text: str, what: str, got, want) -> str:
    at = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
    return (f"  {what} of {text[:200]!r} ({len(text)} characters) differ at {at}:\n"
            f"    freekv     {got[max(0, at - 3):at + 8]!r}\n"
            f"    tokenizers {want[max(0, at - 3):at + 8]!r}")


def compare(name: str, folder: pathlib.Path, model: pathlib.Path, texts: list[str],
            program: pathlib.Path) -> list[str]:
    """Differences between the tokenizer.json of `folder` and our reading of `model`."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    parsed = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=True)]
    tokenizer.encode_special_tokens = True
    plain = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
    differences = []
    lossless = 0
    got_all = ours(program, model, [text.encode() for text in texts])
    for text, want_parsed, want_plain, got in zip(texts, parsed, plain, got_all):
        if got[0] != want_parsed:
            differences.append(first_difference(text, "ids", got[0], want_parsed))
        if got[1] != want_plain:
            differences.append(first_difference(text, "plain ids", got[1], want_plain))
        if got[0] != want_parsed or got[1] != want_plain:
            continue
        for what, ids, skip, decoded in (("decoded", got[0], False, got[2]),
                                         ("plain decoded", got[1], True, got[3])):
            want = tokenizer.decode(ids, skip_special_tokens=skip)
            # Its decoders put U+FFFD where bytes are no character; ours give the bytes.
            if want.count("\ufffd") > text.count("\ufffd"):
                continue
            lossless += 1
            if decoded != want.encode():
                differences.append(first_difference(text, what, decoded.decode(errors="replace"),
                                                    want))
    size = sum(len(text.encode()) for text in texts)
    print(f"{name:18} {len(texts):6} texts {size / 1e6:7.2f} MB {sum(map(len, parsed)):9} ids, "
          f"{lossless} decoded texts: {len(differences) or 'no'} differences", flush=True)
    return differences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="12 MB of books and more random texts")
    parser.add_argument("--only", choices=FORMS, help="one form")
    parser.add_argument("--program", type=pathlib.Path,
                        default=ROOT / "build/release/bin/dump_tokens")
    args = parser.parse_args()
    if not BOOKS.exists():
        print(f"no {BOOKS.name} on this machine: skipped")
        return
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    books = book_texts(12 if args.full else 0.3)
    training = book_texts(1.0)[20:]
    failed = 0
    for name, build in FORMS.items():
        if args.only not in (None, name):
            continue
        form = build(training)
        rng = random.Random(SEED)
        tokens = [token["content"] for token in form["added_tokens"]]
        texts = books + vectors() + random_texts(rng, tokens, 20000 if args.full else 800)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder)
            (path / "tokenizer.json").write_text(json.dumps(form, ensure_ascii=len(name) % 2 == 0))
            differences = compare(name, path, path, texts, args.program)
            if name in AS_GGUF:
                file = VOCAB / AS_GGUF[name]
                differences += compare(file.name, path, file, texts, args.program)
        failed += len(differences)
        print("\n".join(differences[:4]), end="\n" if differences else "")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
