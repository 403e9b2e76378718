"""Exact match on fresh samples at a long context, on a machine without a GPU: with `freekv demo`.

    python evaluate_cpu.py MODEL.gguf --books books.txt.xz --out scores.jsonl

A sample is one document of held-out book text with the facts of one evaluation world of every
task in it, and one question a task, each asked by itself: the document is read once for all of
them and for both attention methods (dense, and freekv with the demo's budget). That is harder than
evaluate.py, where a document holds the facts of one task. A line per sample goes to --out; a run
goes on where the last one ended.
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

import data
import export_gguf
import tasks
from evaluate import HELD_OUT

TASKS = ("needle_numbers", "multi_value", "variable_tracking", "room_chain", "ledger")
ROOT = pathlib.Path(__file__).resolve().parents[2]
METHODS = ("dense", "freekv")


def document(corpus, seed, length):
    """(text, turns): about `length` tokens with the question, and a turn for every task."""
    rng = random.Random(f"evaluate_cpu {seed} {length}")
    names = tasks.Names(rng)
    worlds, turns = zip(*(tasks.evaluation_world(task, names) for task in TASKS))
    facts = data.interleave(rng, worlds)
    inline = corpus.encode([" " + fact for fact in facts])
    filler = corpus.filler(rng, length - sum(map(len, inline)) - 600, 0.0)
    tokens, _ = data.scatter(rng, corpus, facts, inline, filler, ("inline", "line")[seed % 2])
    return corpus.tokenizer.decode(tokens), turns


def ask(args, text, turns):
    """{method: answers} as `freekv demo` prints them."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, name) for name in ("document.txt", "questions.json")]
        pathlib.Path(paths[0]).write_text(text, encoding="utf-8")
        pathlib.Path(paths[1]).write_text(json.dumps([vars(t) for t in turns]), encoding="utf-8")
        done = subprocess.run(
            [args.freekv, "demo", "-m", args.model, "--document", paths[0], "--questions",
             paths[1], "-n", "420", "--ctx", "65536"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr.strip())
    lines = done.stdout.splitlines()
    return {method: [line[10:] for line in lines if line.startswith(f"{method:<8}  ")][:len(turns)]
            for method in METHODS}


def summary(rows):
    """{method: {task: share of exact answers}}."""
    return {method: {task: sum(row[method][task] for row in rows) / len(rows) for task in TASKS}
            for method in METHODS}


def main():
    """Evaluates, and prints the scores after every sample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--books", required=True)
    parser.add_argument("--length", type=int, default=32768)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="seed of the first sample")
    parser.add_argument("--freekv", default=str(ROOT / "build/release/bin/freekv"))
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    tokenizer = export_gguf.load_tokenizer(args.model)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "tokenizer.json")
        tokenizer.save(path)
        tokens = data.encode_books(data.read_books(args.books), path, os.cpu_count() or 1)
    _, corpus = data.Corpus(tokens, tokenizer).split(HELD_OUT)
    rows = []
    if args.out.exists():
        rows = [json.loads(line) for line in args.out.read_text(encoding="utf-8").splitlines()]
    for seed in range(args.first + len(rows), args.first + args.samples):
        text, turns = document(corpus, seed, args.length)
        answers = ask(args, text, turns)
        row = {"seed": seed, "length": args.length}
        for method in METHODS:
            row[method] = {task: got == turn.answer.replace("\n", "; ")
                           for task, turn, got in zip(TASKS, turns, answers[method])}
        rows.append(row)
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(len(rows), json.dumps(summary(rows)), flush=True)


if __name__ == "__main__":
    main()
