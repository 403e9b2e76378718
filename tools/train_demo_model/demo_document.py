"""Writes the demo's document and questions, and checks that the model answers them.

    python demo_document.py MODEL.gguf --books books.txt.xz --out ../../models

demo_document.txt is the beginning of the first book (A Christmas Carol) with facts in it, about
16K tokens; demo_questions.json is a list of {"task", "question", "answer"}.
"""

import argparse
import json
import os
import random
import time

import numpy as np
import torch

import data
import export_gguf
import tasks
from model import Decoder


def make(corpus, length, seed=16):
    """(text, turns): a document of about `length` tokens and its questions."""
    rng = random.Random(seed)
    names = tasks.Names(rng)
    worlds = [tasks.needles(names, "numbers", [1] * 6), tasks.needles(names, "words", [1] * 4),
              tasks.needles(names, "uuids", [1]), tasks.needles(names, "numbers", [4]),
              tasks.variable_tracking(names), tasks.room_chains(names, [12, 6]),
              tasks.ledger(names, 20)]
    facts = data.interleave(rng, worlds)
    inline = corpus.encode([" " + f for f in facts])
    book = corpus.tokens[:length - sum(map(len, inline))]
    book = book[:np.flatnonzero(book == corpus.dot)[-1] + 1]
    tokens, _ = data.scatter(rng, corpus, facts, inline, book, "mixed")
    asked = (3, 2, 1, 1, 1, 1, 1)  # of each world; the other facts are there to be confused with
    turns = [t for w, count in zip(worlds, asked) for t in w.turns[:count]]
    return corpus.tokenizer.decode(tokens), turns


def answers(model, tokenizer, document, questions, stop, room=400):
    """Greedy answers, every question asked by itself, the document computed once."""
    opening = tokenizer.encode(f"<|im_start|>user\n{document}").ids
    full = [tokenizer.encode(data.prompt_text(document, q)).ids for q in questions]
    shared = next(i for i, column in enumerate(zip(opening, *full)) if len(set(column)) > 1)
    decoder = Decoder(model, [full[0][:shared]], room)
    results = []
    for ids in full:
        decoder.lengths = torch.tensor([shared])
        for token in ids[shared:]:
            decoder.next = torch.tensor([token])
            best = decoder.step()
        out = []
        while int(best) != stop and len(out) < room - 80:
            out.append(int(best))
            best = decoder.step()
        results.append(tokenizer.decode(out))
    return results


@torch.no_grad()
def main():
    """Writes both files; the exit status says whether every answer is right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--books", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--tokens", type=int, default=16000)
    parser.add_argument("--seed", type=int, default=16)
    parser.add_argument("--no-check", action="store_true", help="only write the files")
    args = parser.parse_args()
    tokenizer = export_gguf.load_tokenizer(args.model)
    ids = tokenizer.encode(data.read_books(args.books)[0][:8 * args.tokens]).ids
    corpus = data.Corpus(np.array(ids, np.uint16), tokenizer)
    document, turns = make(corpus, args.tokens, args.seed)
    with open(os.path.join(args.out, "demo_document.txt"), "w", encoding="utf-8") as file:
        file.write(document)
    with open(os.path.join(args.out, "demo_questions.json"), "w", encoding="utf-8") as file:
        json.dump([vars(t) for t in turns], file, indent=1, ensure_ascii=False)
        file.write("\n")
    if args.no_check:
        return 0
    start = time.monotonic()
    got = answers(export_gguf.load(args.model), tokenizer, document, [t.question for t in turns],
                  corpus.stop)
    wrong = [(t, a) for t, a in zip(turns, got) if a != t.answer]
    for turn, answer in wrong:
        print(f"{turn.task}: {turn.question}\n  expected {turn.answer}\n  got      {answer}")
    print(f"{len(document.encode())} bytes, {len(tokenizer.encode(document).ids)} tokens, "
          f"{len(turns) - len(wrong)} of {len(turns)} right ({time.monotonic() - start:.0f} s)")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
