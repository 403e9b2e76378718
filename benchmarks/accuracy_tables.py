#!/usr/bin/env python3
"""The tables of docs/accuracy.md from the committed results, and the runs that make the results.

    accuracy_tables.py                     docs/accuracy.md from benchmarks/results/accuracy/*.jsonl
    accuracy_tables.py --list              the tables there are, and the command of each
    accuracy_tables.py --run [NAME ...]    first run these (all), each from where it stopped
    accuracy_tables.py --pack              results for the repository: xz, rounded, without texts

A table is one `freekv eval` and its results file, or with --processes several and theirs joined.
Text outside the markers of docs/accuracy.md is kept, so what is said about a table stands beside
it. --samples and --haystack change all runs. Most tables are made on a GPU, the others meanwhile on
the cores that those leave. Several processes share the GPU through CUDA's MPS where it is
installed: their kernels run side by side instead of in turn, three to four times as fast.
"""
import argparse
import pathlib
import shlex
import sys

from accuracy.document import document, pack
from accuracy.runs import command_of, run_all
from accuracy.tables import TABLES

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--run", nargs="*", metavar="NAME")
    parser.add_argument("--pack", action="store_true")
    parser.add_argument("--samples", type=int, help="of every table (default: its own number)")
    parser.add_argument("--processes", type=int, default=1, help="that share a table's samples")
    parser.add_argument("--parallel", type=int, default=16, help="samples at a time on a GPU")
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
    if args.run is not None:
        for name in args.run:
            if name not in TABLES:
                sys.exit(f"table {name!r} is unknown; there are {', '.join(TABLES)}")
        run_all(args.run or list(TABLES), args)
    if args.pack:
        pack(args)
    old = args.out.read_text(encoding="utf-8") if args.out.exists() else "# Accuracy\n"
    new = document(old, args)
    if new == old and not args.out.exists():
        sys.exit(f"no results in {args.results}; make some with --run")
    args.out.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
