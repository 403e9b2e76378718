#!/usr/bin/env python3
"""freekv eval and freekv report on the demo model: results, interruptions, bad input."""
import argparse
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree

import test_cli
from test_cli import MODEL, PROGRAM, ROOT, check, refused, run

sys.path.insert(0, str(ROOT / "benchmarks"))
from accuracy.runs import command_of  # noqa: E402
from accuracy.shares import join, shares, split  # noqa: E402
from accuracy.tables import TABLES  # noqa: E402

HAYSTACK = ROOT / "models/demo_document.txt"
TASKS = ("eval", "-m", MODEL, "--haystack", HAYSTACK, "--context", 1536, "--suite",
         "ruler/niah-single,ledger", "--entries", 6, "--sink", 32, "--window", 64, "--chunk", 128,
         "--policies", "full", "freekv", "--budgets", 256)
SECONDS = ("read_s", "prefill_s", "decode_s", "wait_ns")


def rows(path: pathlib.Path) -> list[dict]:
    """Rows without what depends on time, in an order of their own."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    kept = [{k: v for k, v in row.items() if k not in SECONDS} for row in lines]
    return sorted(kept, key=lambda row: (row["suite"], row["sample"], row["policy"]))


def whole_run(folder: pathlib.Path) -> pathlib.Path:
    out = folder / "whole.jsonl"
    done = run(*TASKS, "--samples", 2, "--out", out)
    check("eval", done.returncode == 0 and b"8 results in" in done.stdout, done)
    for row in rows(out):
        dense = row["policy"] == "full"
        name = f"{row['suite']} {row['sample']} {row['policy']}"
        check(f"{name}: answered", len(row["answers"][0][0]) > 5 and row["prompt_tokens"] <= 1536
              and row["prompt_tokens"] > 1200, row)
        check(f"{name}: compared", row["compared"] > 5 and
              (row["kl_sum"] == 0 if dense else row["kl_sum"] > 0), row)
        check(f"{name}: retrieved", (row["pages_selected"] > 0) != dense, row)
    # The demo model finds a needle in 1.5K tokens with a sixth of them attended.
    needles = [row["score"] for row in rows(out) if row["suite"] == "ruler/niah-single"]
    check("needles found", sum(needles) >= 3, needles)
    again = run(*TASKS, "--samples", 2, "--out", out)
    check("nothing twice", b"8 results in" in again.stdout and b" 0 of them new" in again.stdout,
          again)
    return out


def together(folder: pathlib.Path, whole: pathlib.Path) -> None:
    """Samples whose answers are decoded together give the same rows."""
    out = folder / "together.jsonl"
    done = run(*TASKS, "--samples", 2, "--parallel", 3, "--out", out)
    check("together", done.returncode == 0 and rows(out) == rows(whole), done)


def sharded(folder: pathlib.Path, whole: pathlib.Path) -> None:
    """Processes that share the samples have together the rows of one."""
    outs = [folder / f"shard{i}.jsonl" for i in range(2)]
    for i, out in enumerate(outs):
        done = run(*TASKS, "--samples", 2, "--shard", f"{i}/2", "--out", out)
        check(f"shard {i}", b"4 results in" in done.stdout, done)
    both = folder / "both.jsonl"
    both.write_bytes(b"".join(out.read_bytes() for out in outs))
    check("shards are the whole", rows(both) == rows(whole))


def cut_file(folder: pathlib.Path, whole: pathlib.Path) -> None:
    """A run that was killed while it wrote goes on with the row it lost."""
    cut = folder / "cut.jsonl"
    cut.write_bytes(whole.read_bytes()[:-100])
    done = run(*TASKS, "--samples", 2, "--out", cut)
    check("goes on after a cut line", b" 1 of them new" in done.stdout and
          b"unfinished" in done.stderr, done)
    check("to the same results", rows(cut) == rows(whole))


def stopped(folder: pathlib.Path, whole: pathlib.Path) -> None:
    """Ctrl-C and kill -9 in the middle: whole lines, and a second run adds only the rest."""
    for name, how, code in (("Ctrl-C", signal.SIGINT, 130), ("kill", signal.SIGKILL, -9)):
        out = folder / f"{name}.jsonl"
        with subprocess.Popen([PROGRAM, *map(str, TASKS), "--samples", "2", "--out", out],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and not (out.exists() and out.stat().st_size):
                time.sleep(0.01)
            process.send_signal(how)
            _, error = process.communicate(timeout=60)
        check(f"{name}: exit code", process.returncode == code, (process.returncode, error))
        had = len(rows(out))
        check(f"{name}: whole lines", 1 <= had < 8, had)
        if how == signal.SIGINT:
            check("Ctrl-C: says how to go on", b"the same command goes on" in error, error)
            done = run(*TASKS, "--samples", 2, "--out", out)
            check("Ctrl-C: only the rest", f"{8 - had} of them new".encode() in done.stdout, done)
            check("Ctrl-C: the same results", rows(out) == rows(whole))


def reports(folder: pathlib.Path, whole: pathlib.Path) -> None:
    page, plots = folder / "page.html", folder / "plots"
    done = run("report", whole, "--html", page, "--svg", plots)
    check("report", done.returncode == 0 and b"ruler/niah-single, 1536 tokens" in done.stdout
          and b"freekv B=256 p=32" in done.stdout and b"corrected heads per layer" in done.stdout,
          done)
    text = page.read_text(encoding="utf-8")
    check("one page", text.count("<svg") == 4 and "src=" not in text and "<table>" in text)
    files = sorted(plots.glob("*.svg"))
    for file in files:
        check(f"{file.name} is XML", xml.etree.ElementTree.parse(file).getroot().tag.endswith("svg"))
    check("plots", len(files) == 4, files)
    tables = run("report", whole, "--markdown")
    check("Markdown", b"| freekv B=256 p=32 | 2 |" in tables.stdout, tables.stdout[:500])


def tables(folder: pathlib.Path, whole: pathlib.Path) -> None:
    """The document's tables are replaced, the text around them stays."""
    (folder / "results").mkdir()
    (folder / "results/tau.jsonl").write_bytes(whole.read_bytes())
    script = [ROOT / "benchmarks/accuracy_tables.py", "--results", folder / "results", "--out",
              folder / "accuracy.md", "--freekv", PROGRAM]
    for turn in range(2):
        done = subprocess.run([sys.executable, *script], capture_output=True, check=False)
        text = (folder / "accuracy.md").read_text(encoding="utf-8")
        check(f"tables, run {turn}", done.returncode == 0 and text.count("<!-- table tau -->") == 1
              and text.count("| freekv B=256 p=32 | 2 |") == 2, (done, text[:300]))
        check(f"words stay, run {turn}", ("A word of mine." in text) == (turn == 1))
        (folder / "accuracy.md").write_text(text + "\nA word of mine.\n", encoding="utf-8")
    done = subprocess.run([sys.executable, *script, "--pack"], capture_output=True, check=False)
    packed = (folder / "accuracy.md").read_text(encoding="utf-8")
    check("packed results give the same tables", done.returncode == 0 and packed.startswith(text)
          and [file.name for file in (folder / "results").iterdir()] == ["tau.jsonl.xz"], done)


def shared_tables(folder: pathlib.Path) -> None:
    """The rows of a stopped run go to the processes of the next, however many, each row once."""
    table = TABLES["policies-128k-tasks"]
    suites = table.suites.split(",")
    args = argparse.Namespace(results=folder / "shared", samples=None)
    args.results.mkdir()
    # A suite may be named whole, and then its tasks have names of their own.
    def row(suite: str, sample: int) -> str:
        return json.dumps({"suite": suite if "/" in suite else f"{suite}/task",
                           "sample": sample}) + "\n"

    lines = [row(suite, sample) for suite in suites for sample in range(table.samples)]
    whole = args.results / "policies-128k-tasks.jsonl"
    whole.write_text("".join(lines), encoding="utf-8")
    other = args.results / "policies-128k.0.jsonl"
    other.write_text(lines[0], encoding="utf-8")
    # Fewer than the samples, as many, and so many that suites are shared out too.
    for args.processes in (2, 3, 12, 64, 1, 7):
        among = shares("policies-128k-tasks", args)
        parts = [whole] if len(among) == 1 else [
            args.results / f"policies-128k-tasks.{i}.jsonl" for i in range(len(among))]
        check(f"at most {args.processes} processes", len(among) <= args.processes, among)
        split("policies-128k-tasks", parts, among, args)
        found = [part.read_text(encoding="utf-8").splitlines(keepends=True) for part in parts]
        check(f"each row to one of {len(among)}", sorted(sum(found, [])) == sorted(lines), found)
        for share, rows in zip(among, found):
            check(f"the rows of {share}", sorted(rows) == sorted(
                row(suite, sample) for suite in share.suites
                for sample in range(share.shard, table.samples, share.of)), rows)
        if len(among) > 1:  # stopped between two files, and within a line
            whole.write_text(lines[3], encoding="utf-8")
            with parts[1].open("a", encoding="utf-8") as part:
                part.write(lines[0][:-3])
    joined = join("policies-128k-tasks", args)
    check("put together", joined == whole and
          sorted(whole.read_text(encoding="utf-8").splitlines(keepends=True)) == sorted(lines) and
          sorted(args.results.iterdir()) == sorted([whole, other]), list(args.results.iterdir()))


def methods_apart(folder: pathlib.Path) -> None:
    """Each process of such a table has full's rows too; together they are there once."""
    name = "generation"
    full, *others = TABLES[name].policies
    args = argparse.Namespace(results=folder / "apart", samples=None)
    args.results.mkdir()

    def row(policy: str, seconds: float) -> bytes:
        return (json.dumps({"suite": "ledger/long", "sample": 3, "policy": policy, "id": "3",
                            "prompt_tokens": 9, "read_s": seconds}) + "\n").encode()

    whole = args.results / f"{name}.jsonl"
    lines = [row(policy, 1) for policy in (full, *others)]
    whole.write_bytes(b"".join(lines))
    for args.processes, processes in ((12, 3), (2, 2), (1, 1), (3, 3)):
        among = shares(name, args)
        check(f"{processes} of methods apart, each beside full", len(among) == processes and
              all(processes == 1 or full in share.policies for share in among), among)
        parts = [whole] if processes == 1 else [
            args.results / f"{name}.{i}.jsonl" for i in range(processes)]
        split(name, parts, among, args)
        for share, part in zip(among, parts):
            got = part.read_bytes().splitlines(keepends=True)
            mine = share.policies or (full, *others)
            check(f"rows of {mine}", sorted(got) == sorted(
                line for policy, line in zip((full, *others), lines) if policy in mine), got)
            command = command_of(name, argparse.Namespace(
                **vars(args), model="", freekv="", haystack=None, parallel=16), 0, share)
            given = command[command.index("--policies") + 1:command.index("--samples")]
            check(f"command of {mine}", tuple(given) == tuple(mine), command)
        check(f"all methods of {processes}", sorted(
            policy for share in among for policy in (share.policies or (full, *others))
            if policy != full) == sorted(others) or processes == 1, among)
        if processes > 1:  # another process took longer for the same
            with parts[1].open("ab") as part:
                part.write(row(full, 2))
        join(name, args)
        check(f"once, of {processes}", sorted(whole.read_bytes().splitlines(keepends=True)) ==
              sorted(lines), whole.read_bytes())


def balanced_tables() -> None:
    """No process has far more to do than another, and none is without samples."""
    args = argparse.Namespace(samples=None, processes=12)
    # Samples and suites of one process: 16 prompts of two tasks, 3 of eleven, and 200 of four
    # suites that differ too much to be shared out.
    for name, suites, samples in (("h2o", 1, 3), ("policies-128k-tasks", 3, 1), ("suite", 4, 17)):
        table = TABLES[name]
        among = shares(name, args)
        most = max(len(range(share.shard, table.samples, share.of)) for share in among)
        least = min(len(range(share.shard, table.samples, share.of)) for share in among)
        check(f"shares of {name}", 1 <= least <= most == samples and
              max(len(share.suites) for share in among) == suites, among)


def bad_input(folder: pathlib.Path, whole: pathlib.Path) -> None:
    out = folder / "refused.jsonl"
    ask = ("eval", "-m", MODEL, "--haystack", HAYSTACK, "--out", out, "--samples", 1)
    refused("unknown suite", r"nosuch.*ruler, chain, ledger", *ask, "--suite", "nosuch")
    refused("unknown task", r"ruler/nosuch.*niah-single", *ask, "--suite", "ruler/nosuch")
    refused("small context", r"ledger: .*tokens", *ask, "--suite", "ledger", "--context", 300)
    refused("small budget", r"budget is 64", *ask, "--suite", "chain", "--budgets", 64)
    refused("policy", "nosuch.*full", *ask, "--suite", "chain", "--policies", "nosuch")
    refused("greedy repeats", r"--k is 4.*--temp", *ask, "--suite", "chain", "--k", 4)
    refused("parallel", r"--parallel is -1", *ask, "--suite", "chain", "--parallel", -1)
    refused("no samples", r"--samples is 0", "eval", "--out", out, "--samples", 0)
    for shard in ("2/2", "1", "0/2x", "0/0"):
        refused(f"shard {shard}", rf'--shard is "{shard}"', "eval", "--out", out, "--shard", shard)
    refused("no haystack", r"none\.txt.*[Nn]o such file", "eval", "-m", MODEL, "--out", out,
            "--haystack", folder / "none.txt")
    refused("no data file", r"math.*FILE", *ask, "--suite", "math")
    data = folder / "math.jsonl"
    data.write_text('{"problem": "1+1?", "answer": "2"}\n{"problem": "1+2?"}\n', encoding="utf-8")
    refused("data file", r'math\.jsonl: line 2: field "answer" is missing', *ask, "--suite",
            f"math:{data}")
    check("nothing written", not out.exists())
    other = folder / "other.jsonl"
    other.write_text("notes\n", encoding="utf-8")
    refused("not results", r"other\.jsonl: line 1", "eval", "-m", MODEL, "--haystack", HAYSTACK,
            "--suite", "chain", "--out", other)
    check("left alone", other.read_text(encoding="utf-8") == "notes\n")
    bad = folder / "bad.jsonl"
    bad.write_text(whole.read_text(encoding="utf-8").replace('"hits":', '"hit":', 1),
                   encoding="utf-8")
    refused("report field", r'bad\.jsonl: line 1: field "hits" is missing', "report", bad)
    refused("report file", r"none\.jsonl", "report", folder / "none.jsonl")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        whole = whole_run(folder)
        together(folder, whole)
        sharded(folder, whole)
        cut_file(folder, whole)
        stopped(folder, whole)
        reports(folder, whole)
        tables(folder, whole)
        shared_tables(folder)
        methods_apart(folder)
        balanced_tables()
        bad_input(folder, whole)
    print(f"{test_cli.checks - test_cli.failures} passed, {test_cli.failures} failed")
    sys.exit(test_cli.failures > 0)


if __name__ == "__main__":
    main()
