"""Dense greedy exact match on fresh samples over held-out book text.

    python evaluate.py MODEL.gguf --books books.txt.xz --out scores.json

evaluates a file that is there already (on a GPU: about two minutes, most of it at 32K).
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import tempfile
import time

import torch

import data
import export_gguf
import tasks
from model import generate

HELD_OUT = 0.03  # of the book tokens, the last ones

_corpus = None  # set before the processes start, which inherit it


def _sample(job):
    return data.evaluation_sample(_corpus, *job)


def samples(corpus, task, length, count, processes, first_seed=0):
    """`count` pairs (prompt tokens, answer text)."""
    global _corpus
    _corpus = corpus
    jobs = [(task, first_seed + i, length) for i in range(count)]
    if not processes:
        return [_sample(job) for job in jobs]
    fork = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=fork) as pool:
        return list(pool.map(_sample, jobs, chunksize=-(-count // processes)))


def values(answer):
    """The values of a multi-value or variable-tracking answer."""
    return answer.rsplit(" are", 1)[1].strip(" :.").split(", ")


def score(answers, expected):
    """Share of exact matches, and RULER's score: the mean share of values that are named."""
    exact = sum(a == e for a, e in zip(answers, expected)) / len(expected)
    if " are" not in expected[0] or "\n" in expected[0]:
        return {"exact": exact}
    named = [sum(v in a for v in values(e)) / len(values(e)) for a, e in zip(answers, expected)]
    return {"exact": exact, "values": sum(named) / len(named)}


def evaluate(model, corpus, lengths, count, processes, log, names=tasks.EVALUATION):
    """{length: {task: score}} with `count` samples each; failures: the first few wrong answers."""
    results, failures = {}, {}
    for length in lengths:
        results[length] = {}
        for task in names:
            start = time.monotonic()
            made = samples(corpus, task, length, count, processes)
            ready = time.monotonic()
            expected = [answer for _, answer in made]
            longest = max(len(e) for e in corpus.encode(expected))
            tokens = generate(model, [p for p, _ in made], longest + 8, corpus.stop)
            answers = [corpus.tokenizer.decode(t, skip_special_tokens=False) for t in tokens]
            results[length][task] = score(answers, expected)
            wrong = [(a, e) for a, e in zip(answers, expected) if a != e]
            failures[f"{length} {task}"] = wrong[:4]
            log(f"{length:6d} {task:27s} {results[length][task]} of {count} "
                f"({ready - start:.1f} + {time.monotonic() - ready:.1f} s)")
    return results, failures


def main():
    """Evaluates a GGUF file; prints the scores and saves them with the first wrong answers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--books", required=True)
    parser.add_argument("--lengths", default="8192,32768")
    parser.add_argument("--tasks", default=",".join(tasks.EVALUATION))
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--processes", type=int, default=min(13, os.cpu_count() or 1))
    parser.add_argument("--out")
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = export_gguf.load(args.model, device,
                             torch.bfloat16 if device == "cuda" else torch.float32)
    tokenizer = export_gguf.load_tokenizer(args.model)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "tokenizer.json")
        tokenizer.save(path)
        tokens = data.encode_books(data.read_books(args.books), path, args.processes)
    _, held_out = data.Corpus(tokens, tokenizer).split(HELD_OUT)
    results, failures = evaluate(model, held_out, [int(n) for n in args.lengths.split(",")],
                                 args.samples, args.processes, print, args.tasks.split(","))
    if args.out:
        with open(args.out, "w", encoding="utf-8") as file:
            json.dump({"results": results, "failures": failures}, file, indent=1)


if __name__ == "__main__":
    main()
