"""Results as the tables of docs/accuracy.md, and packed for the repository."""
import argparse
import json
import lzma
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

from .tables import EPSILONS, TABLES


def pack(args: argparse.Namespace) -> None:
    """What the tables need of the results: a score stands beside each answer that is left out."""
    for results in sorted(args.results.glob("*.jsonl")):
        rows = [json.loads(line, parse_float=lambda digits: float(f"{float(digits):.6g}"))
                for line in results.read_bytes().splitlines()]
        lines = (json.dumps({**row, "answers": []}, separators=(",", ":")) + "\n" for row in rows)
        packed = lzma.compress("".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME)
        pathlib.Path(f"{results}.xz").write_bytes(packed)
        results.unlink()


def results_of(name: str, args: argparse.Namespace) -> bytes:
    """Large results are committed packed."""
    results = args.results / f"{name}.jsonl"
    return results.read_bytes() if results.exists() else lzma.open(f"{results}.xz").read()


def overview(args: argparse.Namespace) -> str:
    """Coverage against dense attention and against correction by cosine, a line per task and
    epsilon."""
    cells: dict = {}
    for line in results_of("suite", args).splitlines():
        row = json.loads(line)
        key = (row["suite"].removeprefix("ruler/"), row["policy"], row["budget"])
        cells.setdefault(key, []).append(row)

    def mean(rows: list, key: str, of: str | None = None) -> float:
        return sum(r[key] for r in rows) / (sum(r[of] for r in rows) if of else len(rows))

    lines = ["| epsilon | task | n | dense | " + " | ".join(
        f"B = {b}: points | tokens as dense | pages waited for, of tau = 0.9"
        for b in (512, 2048)) + " |", "|---|---|---:|---:|" + "---:|" * 6]
    for epsilon, policy in EPSILONS.items():
        for task in dict.fromkeys(key[0] for key in cells):
            dense = {r["sample"]: r["score"] for r in cells[task, "full", 0]}
            columns = [epsilon, task, str(len(dense)),
                       f"{sum(dense.values()) / len(dense):.3f}"]
            for budget in (512, 2048):
                ours = cells[task, policy, budget]
                cosine = cells[task, "freekv:tau=0.9,sketch=key2", budget]
                points = 100 * sum(r["score"] - dense[r["sample"]] for r in ours) / len(ours)
                waited = [mean(rows, "misses_before", "selections") for rows in (ours, cosine)]
                agreed = mean(ours, "agreed", "compared")
                columns += [f"{round(points, 1) + 0.0:+.1f}", f"{100 * agreed:.2f} %",
                            f"{waited[0]:.2f} of {waited[1]:.2f} ({waited[0] / waited[1]:.2f})"]
            lines.append("| " + " | ".join(columns) + " |")
    return "<!-- overview -->\n" + "\n".join(lines) + "\n<!-- end overview -->"


def section(name: str, args: argparse.Namespace) -> str:
    """The results of one table as Markdown, between its markers."""
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as unpacked:
        unpacked.write(results_of(name, args))
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
    marked = re.compile(r"<!-- overview -->.*?<!-- end overview -->", re.DOTALL)
    if marked.search(text):
        text = marked.sub(lambda _: overview(args), text)
    return text
