#!/usr/bin/env python3
"""The tables of docs/accuracy.md from the committed results, and the runs that make the results.

    accuracy_tables.py                     docs/accuracy.md from benchmarks/results/accuracy/*.jsonl
    accuracy_tables.py --list              the tables there are, and the command of each
    accuracy_tables.py --run [NAME ...]    first run these (all), each from where it stopped

A table is one `freekv eval` and its results file. Text outside the markers of docs/accuracy.md is
kept, so what is said about a table stands beside it. --samples and --haystack change all runs.
"""
import argparse
import lzma
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parent.parent
ALL_POLICIES = ("full", "streaming", "razor", "raas", "snapkv", "h2o", "quest", "arkvale",
                "shadowkv", "infinigen", "oracle", "freekv", "freekv:sketch=key2",
                "freekv:tau=2,sketch=key2", "freekv-coverage")
TASKS = ("ruler/niah-single,ruler/niah-multi-key,ruler/niah-multi-value,ruler/variable-tracking,"
         "chain,ledger")
HARD = ("ruler/niah-multi-key", "chain", "ledger")  # one search, many searches, long answers
QUEST_KEY2 = "quest:sketch=key2,pooling=mean_softmax,dense_layers=0"
ON_GPU = ("--backend", "cuda", "--kv-type", "bf16", "--seed", "9")
SKETCHES = ("minmax", "cuboid", "mean", "key2", "minmax+key2")
POOLINGS = ("mean_softmax", "max_softmax", "mean_score", "max_score")


@dataclass
class Table:
    """One section of the document: its heading and what `freekv eval` is given."""

    title: str
    suites: str
    contexts: str
    policies: tuple
    budgets: str = "512"
    further: tuple = ()

    def arguments(self) -> list[str]:
        return ["--suite", self.suites, "--context", self.contexts, "--budgets", self.budgets,
                "--sink", "64", "--window", "128", *self.further, "--policies", *self.policies]


def swept(policy: str, key: str, values: tuple) -> tuple:
    """full, and the policy with each value of one key."""
    joined = "," if ":" in policy else ":"
    return ("full", *(f"{policy}{joined}{key}={value}" for value in values))


TABLES = {
    "policies": Table("All policies", TASKS, "8192,32768,131072", ALL_POLICIES, "2048"),
    "policies-512": Table("All policies with 512 tokens", TASKS, "32768", ALL_POLICIES, "512"),
    # Small enough for two CPU cores: the bar of 100 samples in 20 minutes is measured with it.
    "policies-8k": Table("All policies at 8K with 512 tokens", "ruler/niah-multi-key,chain", "8192",
                         tuple("shadowkv:rank=32" if p == "shadowkv" else p for p in ALL_POLICIES),
                         "512"),
    "tau": Table("Correction by cosine", ",".join(HARD), "32768",
                 swept("freekv:sketch=key2", "tau", ("0.7", "0.75", "0.8", "0.85", "0.9", "0.95"))),
    # What the CUDA engine runs: box sketches. On one H200 100 samples take some three minutes.
    "tau-cuda": Table("Correction by cosine with box sketches, on a GPU", ",".join(HARD), "32768",
                      ("full", "quest", "freekv:tau=-1", "freekv:tau=0.7", "freekv",
                       "freekv:tau=0.9", "freekv:tau=2"), "512", ON_GPU),
    # With 2-bit key sketches and coverage, which the CUDA engine runs too.
    "policies-cuda": Table("Retrieval policies at 32K, on a GPU", ",".join(HARD), "32768",
                           ("full", "quest", QUEST_KEY2, "freekv", "freekv:tau=-1,sketch=key2",
                            "freekv:sketch=key2", "freekv:tau=2,sketch=key2", "freekv-coverage"),
                           "512,2048", ON_GPU),
    "tau-key2-cuda": Table("Correction by cosine with 2-bit key sketches, on a GPU", "chain",
                           "32768", swept("freekv:sketch=key2", "tau",
                                          ("0.7", "0.75", "0.8", "0.85", "0.9", "0.95")), "512",
                           ON_GPU),
    "epsilon-cuda": Table("Correction by missing attention mass, on a GPU", "chain", "32768",
                          swept("freekv-coverage", "epsilon",
                                ("0.2", "0.1", "0.05", "0.02", "0.01")), "512", ON_GPU),
    "budget-cuda": Table("Budgets, on a GPU", "chain", "32768",
                         ("full", "quest", "freekv", "freekv:sketch=key2", "freekv-coverage"),
                         "256,1024,4096", ON_GPU),
    "128k-cuda": Table("128K, on a GPU", "ruler/niah-multi-key,chain", "131072",
                       ("full", "quest", "freekv", "freekv:sketch=key2", "freekv-coverage"),
                       "512,2048", ON_GPU),
    "epsilon": Table("Correction by missing attention mass", ",".join(HARD), "32768",
                     swept("freekv-coverage", "epsilon", ("0.2", "0.1", "0.05", "0.02", "0.01"))),
    "budget": Table("Budgets", ",".join(HARD), "32768",
                    ("full", "quest", "freekv", "freekv:sketch=key2", "freekv-coverage"),
                    "256,512,1024,2048,4096"),
    # A budget of 128 has no room beside the sink and window of the other tables.
    "budget-128": Table("Budget of 128", ",".join(HARD), "32768",
                        ("full", "quest", "freekv", "freekv:sketch=key2", "freekv-coverage"), "128",
                        ("--sink", "32", "--window", "32")),
    "sketches": Table("Sketches and poolings", ",".join(HARD), "32768",
                      ("full", *(f"quest:sketch={s},pooling={p},dense_layers=0"
                                 for s in SKETCHES for p in POOLINGS))),
    "pages": Table("Tokens per page", ",".join(HARD), "32768",
                   ("full", "freekv", "freekv:sketch=key2", "freekv-coverage"), "512",
                   ("--pages", "16,32,64")),
    "generation": Table("Generations of 32K tokens", "ledger", "131072",
                        ("full", "freekv", "freekv:sketch=key2", "freekv-coverage"), "2048",
                        ("--entries", "4000", "-n", "32768")),
    # tau = 2 waits for the selection of the current query, as Quest does from fast memory.
    "algorithm": Table("The algorithm apart from the system", ",".join(HARD), "32768",
                       ("full", QUEST_KEY2,
                        "freekv:tau=2,sketch=key2", "freekv:tau=-1,sketch=key2",
                        "freekv:sketch=key2", "freekv-coverage")),
}


def command_of(name: str, args: argparse.Namespace) -> list[str]:
    command = [str(args.freekv), "eval", "-m", str(args.model), *TABLES[name].arguments(),
               "--samples", str(args.samples), "--out", str(args.results / f"{name}.jsonl")]
    return command + (["--haystack", str(args.haystack)] if args.haystack else [])


def section(name: str, args: argparse.Namespace) -> str:
    """The results of one table as Markdown, between its markers."""
    results = args.results / f"{name}.jsonl"
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as unpacked:
        if not results.exists():  # large results are committed packed
            unpacked.write(lzma.open(f"{results}.xz").read())
            unpacked.flush()
            results = unpacked.name
        done = subprocess.run([args.freekv, "report", "--markdown", results], capture_output=True,
                              text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr.strip())
    shown = shlex.join(["freekv", "eval", *TABLES[name].arguments()])
    return (f"<!-- table {name} -->\n`{shown}`\n\n{done.stdout.strip()}\n<!-- end {name} -->")


def document(text: str, args: argparse.Namespace) -> str:
    """The document with every table that has results; new ones come at the end."""
    for name, table in TABLES.items():
        if not list(args.results.glob(f"{name}.jsonl*")):
            continue
        made = section(name, args)
        old = re.compile(rf"<!-- table {name} -->.*?<!-- end {name} -->", re.DOTALL)
        if old.search(text):
            text = old.sub(lambda _, made=made: made, text)
        else:
            text = f"{text.rstrip()}\n\n## {table.title}\n\n{made}\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--run", nargs="*", metavar="NAME")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--haystack", type=pathlib.Path, help="text for the documents")
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "models/freekv-demo.gguf")
    parser.add_argument("--freekv", type=pathlib.Path, default=ROOT / "build/release/bin/freekv")
    parser.add_argument("--results", type=pathlib.Path,
                        default=ROOT / "benchmarks/results/accuracy")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs/accuracy.md")
    args = parser.parse_args()
    if args.list:
        for name, table in TABLES.items():
            print(f"{name}: {table.title}\n  {shlex.join(command_of(name, args))}")
        return
    for name in (args.run or TABLES) if args.run is not None else ():
        if name not in TABLES:
            sys.exit(f"table {name!r} is unknown; there are {', '.join(TABLES)}")
        args.results.mkdir(parents=True, exist_ok=True)
        code = subprocess.run(command_of(name, args), cwd=ROOT, check=False).returncode
        if code != 0:
            sys.exit(code)
    old = args.out.read_text(encoding="utf-8") if args.out.exists() else "# Accuracy\n"
    new = document(old, args)
    if new == old and not args.out.exists():
        sys.exit(f"no results in {args.results}; make some with --run")
    args.out.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
