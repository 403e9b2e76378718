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
import concurrent.futures
import contextlib
import json
import lzma
import math
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What --backend cuda runs; all others answer on the CPU from the prompts that it has read.
ON_DEVICE = ("full", "quest", "freekv", "freekv:sketch=key2", "freekv:tau=2,sketch=key2",
             "freekv-coverage")
BASELINES = ("streaming", "razor", "raas", "snapkv", "arkvale", "shadowkv:rank=32", "infinigen",
             "oracle")
ALL = ("full", *BASELINES[:4], "h2o", "quest", *BASELINES[4:], *ON_DEVICE[2:])
SUITE = "ruler,chain,ledger,copy-json"
OTHERS = ",".join([*(f"ruler/{task}" for task in (
    "niah-single", "niah-multi-key-words", "niah-multi-key-uuids", "niah-multi-value",
    "niah-multi-query", "variable-tracking", "variable-tracking-3-chains", "common-words",
    "frequent-words")), "ledger", "copy-json"])  # all but niah-multi-key and chain
HARD = ("ruler/niah-multi-key", "chain", "ledger")  # one search, many searches, long answers
# What the suite compares: the default and what waits for more.
EPSILONS = {"0.07": "freekv-coverage", "0.05": "freekv-coverage:epsilon=0.05"}
QUEST_KEY2 = "quest:sketch=key2,pooling=mean_softmax,dense_layers=0"
COMPARED = ("full", "quest", "freekv", "freekv:sketch=key2", "freekv-coverage")
SKETCHES = ("minmax", "cuboid", "mean", "key2", "minmax+key2")
POOLINGS = ("mean_softmax", "max_softmax", "mean_score", "max_score")
SAMPLES = 200
# The demo model was trained up to 32K, and answers nothing at 128K without.
TO_128K = ("--rope-scaling", "yarn", "--rope-scale", "4", "--yarn-orig-ctx", "32768")


@dataclass
class Table:
    """One section of the document: its heading and what `freekv eval` is given."""

    title: str
    suites: str
    contexts: str
    policies: tuple
    budgets: str = "512"
    sink: int = 64
    window: int = 128
    further: tuple = ()
    samples: int = SAMPLES
    gpu: bool = True
    host: bool = False  # made on cores that the other tables leave
    parallel: int = 64  # at most: what fits into memory for all processes
    # Methods are shared out among processes instead of samples: one answers all samples at once.
    apart: bool = False

    def arguments(self, suites: str = "", policies: tuple = ()) -> list[str]:
        """With some of the table's suites or policies instead of all, if given."""
        backend = ("--backend", "cuda", "--kv-type", "bf16", "--seed", "9") if self.gpu else ()
        return ["--suite", suites or self.suites, "--context", self.contexts,
                "--budgets", self.budgets, "--sink", str(self.sink), "--window", str(self.window),
                *backend, *self.further, "--policies", *(policies or self.policies)]


def swept(policy: str, key: str, values: tuple) -> tuple:
    """full, and the policy with each value of one key."""
    joined = "," if ":" in policy else ":"
    return ("full", *(f"{policy}{joined}{key}={value}" for value in values))


# In the order in which they are made: first what may keep a process for minutes with one sample, so
# that nobody waits for it in the end.
TABLES = {
    # Without h2o, which would have to read 128K tokens on the CPU.
    "policies-128k-tasks": Table("All policies on all other tasks at 128K", OTHERS, "131072",
                                 (*ON_DEVICE, *BASELINES), further=TO_128K, samples=3, parallel=1),
    "policies-128k": Table("All policies at 128K", "ruler/niah-multi-key,chain", "131072",
                           (*ON_DEVICE, *BASELINES), further=TO_128K, samples=16, parallel=1),
    # The whole suite with what its bars are about.
    "suite": Table("The suite at 32K", SUITE, "32768",
                   ("full", "freekv:sketch=key2", "freekv:tau=0.9,sketch=key2",
                    *EPSILONS.values()), "512,2048"),
    # tau = 2 waits for the selection of the current query, as Quest does from fast memory, and
    # tau = -1 never.
    "algorithm": Table("The algorithm apart from the system", ",".join(HARD), "32768",
                       ("full", "quest", QUEST_KEY2, "freekv:tau=-1", "freekv", "freekv:tau=2",
                        "freekv:tau=-1,sketch=key2", "freekv:sketch=key2",
                        "freekv:tau=2,sketch=key2", "freekv-coverage")),
    # Without h2o, which looks at every query of a prompt: a core takes a minute or so, and 400 MB.
    "policies": Table("All policies at 32K", "ruler/niah-multi-key,chain", "32768",
                      (*ON_DEVICE, *BASELINES), samples=48),
    "policies-tasks": Table("All policies on all other tasks at 32K", OTHERS, "32768",
                            (*ON_DEVICE, *BASELINES), samples=12),
    "h2o": Table("h2o at 32K", "ruler/niah-multi-key,chain", "32768", ("full", "h2o"),
                 samples=16, host=True, parallel=1),
    "h2o-tasks": Table("h2o on all other tasks at 32K", OTHERS, "32768", ("full", "h2o"),
                       samples=3, host=True, parallel=1),
    # For two CPU cores: the bar of 100 samples, 50 of each task, in 20 minutes is measured with it.
    "policies-8k": Table("All policies at 8K with 512 tokens, on the CPU",
                         "ruler/niah-multi-key,chain", "8192",
                         ALL, samples=50, gpu=False, host=True),
    "policies-8k-tasks": Table("All policies on all other tasks at 8K with 512 tokens, on the CPU",
                               OTHERS, "8192", ALL, samples=12, gpu=False, host=True),
    "tau": Table("Correction by cosine", ",".join(HARD), "32768",
                 swept("freekv:sketch=key2", "tau", ("0.7", "0.75", "0.8", "0.85", "0.9", "0.95")),
                 samples=100),
    "tau-minmax": Table("Correction by cosine with box sketches", ",".join(HARD), "32768",
                        ("full", "quest", "freekv:tau=-1", "freekv:tau=0.7", "freekv",
                         "freekv:tau=0.9", "freekv:tau=2"), samples=100),
    "epsilon": Table("Correction by missing attention mass", ",".join(HARD), "32768",
                     swept("freekv-coverage", "epsilon",
                           ("0.2", "0.1", "0.07", "0.05", "0.02", "0.01")),
                     samples=100),
    "budget": Table("Budgets", ",".join(HARD), "32768", COMPARED, "256,1024,2048,4096",
                    samples=100),
    # A budget of 128 has no room beside the sink and window of the other tables.
    "budget-128": Table("Budget of 128", ",".join(HARD), "32768", COMPARED, "128",
                        sink=32, window=32, samples=100),
    # Most sketches are the host's alone: on the CPU, at 8K.
    "sketches": Table("Sketches and poolings at 8K, on the CPU", "ruler/niah-multi-key,chain",
                      "8192", ("full", *(f"quest:sketch={s},pooling={p},dense_layers=0"
                                         for s in SKETCHES for p in POOLINGS)),
                      samples=30, gpu=False, host=True),
    "pages": Table("Tokens per page", ",".join(HARD), "32768",
                   ("full", "freekv", "freekv:sketch=key2", "freekv-coverage"), "512",
                   further=("--pages", "16,32,64"), samples=100),
    # Prompts of 53K tokens, past the 32K of the model's training: how far methods part, no scores.
    "generation": Table("Generations of 32K tokens", "ledger", "65536",
                        ("full", "freekv", "freekv:sketch=key2", "freekv-coverage"), "2048",
                        further=("--entries", "1200", "-n", "32768"), samples=8, apart=True),
    # What limits agreement with dense attention: exact page masses and more tokens.
    "agreement": Table("Agreement where it is least", "ruler/variable-tracking,"
                       "ruler/niah-multi-query,ruler/common-words,ruler/frequent-words", "32768",
                       ("full", "oracle", "freekv:tau=2,sketch=key2", "freekv-coverage",
                        "freekv-coverage:epsilon=0.01"), "2048,8192", samples=48),
    # What the pages are worth that are not attended to; with this sketch the host answers.
    "values": Table("Mean values of the pages that are not attended to", SUITE, "32768",
                    ("full", "freekv-coverage", "freekv-coverage:sketch=key2+values"), "512,2048",
                    samples=24),
    # The suite's tightest cell at this budget, with more samples.
    "tracking": Table("Variable tracking of three chains, 1,000 samples",
                      "ruler/variable-tracking-3-chains", "32768",
                      ("full", "freekv:tau=0.9,sketch=key2", *EPSILONS.values()), "2048",
                      samples=1000),
    "128k": Table("128K", "ruler/niah-multi-key,chain", "131072", COMPARED, "512,2048",
                  further=TO_128K, samples=100, parallel=4),
    # A larger epsilon than the suite's, where its bars at this budget are tight.
    "epsilon-2048": Table("Missing attention mass with 2,048 tokens",
                          "ruler/variable-tracking,ruler/variable-tracking-3-chains,chain,ledger",
                          "32768", swept("freekv-coverage", "epsilon", ("0.1",)), "2048"),
}


@dataclass
class Share:
    """What one of a table's processes makes: every `of`-th sample of some of its suites, under some
    of its policies (all, if none are named)."""

    suites: list
    shard: int
    of: int
    policies: tuple = ()

    def has(self, row: dict) -> bool:
        return row["sample"] % self.of == self.shard and any(
            row["suite"] == suite or row["suite"].startswith(f"{suite}/")
            for suite in self.suites) and (not self.policies or row["policy"] in self.policies)


def shares(name: str, args: argparse.Namespace) -> list[Share]:
    """Samples are shared out, and suites too where that makes the longest share much shorter: a
    sample of one suite may take far longer than one of another. Of methods apart each process
    answers with full too, with which the others are compared."""
    table = TABLES[name]
    suites = table.suites.split(",")
    samples = args.samples or table.samples
    processes = args.processes
    if table.apart and processes > 1:
        full, *others = table.policies
        among = min(processes, len(others))
        return [Share(suites, 0, 1, (full, *others[i::among])) for i in range(among)]

    def each(groups: int) -> int:  # processes of a group of suites
        return min(samples, processes // groups)

    def longest(groups: int) -> float:
        share = math.ceil(samples / each(groups)) * math.ceil(len(suites) / groups)
        return share if groups == 1 else 1.2 * share

    groups = min(range(1, min(len(suites), processes) + 1), key=longest)
    of = each(groups)
    return [Share(suites[group::groups], shard, of)
            for group in range(groups) for shard in range(of)]


def command_of(name: str, args: argparse.Namespace, number: int = 0,
               share: Share | None = None) -> list[str]:
    """Of a whole table, or of its share with that number."""
    table = TABLES[name]
    out = args.results / f"{name}.jsonl"
    command = [str(args.freekv), "eval", "-m", str(args.model),
               *(table.arguments(",".join(share.suites), share.policies) if share
                 else table.arguments()),
               "--samples", str(args.samples or table.samples)]
    if args.haystack:
        command += ["--haystack", str(args.haystack)]
    if table.gpu:
        command += ["--parallel", str(min(args.parallel, table.parallel))]
    if share:
        out = out.with_suffix(f".{number}.jsonl")
        command += ["--shard", f"{share.shard}/{share.of}", "--threads", "1"]
    return [*command, "--out", str(out)]


@contextlib.contextmanager
def shared_gpu(names: list[str], processes: int) -> Iterator[dict]:
    """The environment of processes that share a GPU: a private MPS daemon, while it is needed."""
    control = shutil.which("nvidia-cuda-mps-control")
    if processes == 1 or control is None or not any(TABLES[name].gpu for name in names):
        yield dict(os.environ)
        return
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "CUDA_MPS_PIPE_DIRECTORY": folder,
                       "CUDA_MPS_LOG_DIRECTORY": folder}
        if subprocess.run([control, "-d"], env=environment, check=False).returncode != 0:
            print("MPS does not start here: processes take turns on the GPU", file=sys.stderr)
            yield dict(os.environ)
            return
        try:
            yield environment
        finally:
            subprocess.run([control], input="quit\n", text=True, env=environment, check=False,
                           stdout=subprocess.DEVNULL)


def identity(row: bytes) -> bytes:
    """What a row is the result of. Methods apart make several of full, that differ in times."""
    return row.partition(b'"prompt_tokens":')[0]


def replace(path: pathlib.Path, content: bytes) -> None:
    """Writes a file so that one that is stopped meanwhile leaves the old one."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


def join(name: str, args: argparse.Namespace) -> pathlib.Path:
    """Puts the rows of a table's processes, of this run or one that was stopped, into one file."""
    whole = args.results / f"{name}.jsonl"
    parts = sorted(args.results.glob(f"{name}.[0-9]*.jsonl"),
                   key=lambda part: int(part.suffixes[0][1:]))
    if parts:
        rows = [row for file in (whole, *parts) if file.exists()
                for row in file.read_bytes().splitlines(keepends=True)
                if row.endswith(b"\n")]  # else a process was stopped while it wrote
        first: dict = {}
        for row in rows:
            first.setdefault(identity(row), row)
        replace(whole, b"".join(first.values()))
        for part in parts:
            part.unlink()
    return whole


def split(name: str, parts: list[pathlib.Path], among: list[Share],
          args: argparse.Namespace) -> None:
    """Gives each process what there is of its share."""
    whole = join(name, args)
    if not whole.exists() or whole in parts:
        return
    rows = whole.read_bytes().splitlines(keepends=True)
    for part, share in zip(parts, among):
        replace(part, b"".join(row for row in rows if share.has(json.loads(row))))
    whole.unlink()


def run_tables(names: list[str], args: argparse.Namespace, environment: dict) -> None:
    """Makes tables' results. A process that has ended makes room for one of the next table: the
    slowest of a table's keeps nobody waiting."""
    parts, commands = {}, []
    for name in names:
        among = shares(name, args)
        mine = [command_of(name, args, number, share if len(among) > 1 else None)
                for number, share in enumerate(among)]
        parts[name] = [pathlib.Path(command[-1]) for command in mine]
        split(name, parts[name], among, args)
        commands += [(name, command) for command in mine]
    running: dict = {name: [] for name in names}
    start: dict = {}

    def run(name: str, command: list[str]) -> None:
        start.setdefault(name, time.monotonic())
        quiet = subprocess.DEVNULL if len(parts[name]) > 1 else None
        nice = ["nice"] if TABLES[name].host else []
        # Answers of tens of thousands of short steps go before the others' long kernels.
        level = {} if TABLES[name].apart else {"CUDA_MPS_CLIENT_PRIORITY": "1"}  # below normal
        code = subprocess.run([*nice, *command], cwd=ROOT, stdout=quiet, stderr=quiet,
                              env={**environment, **level}, check=False).returncode
        if code != 0:
            raise RuntimeError(f"{shlex.join(command)}: exit code {code}")

    together = max(len(each) for each in parts.values())
    with concurrent.futures.ThreadPoolExecutor(together) as pool:
        try:
            for name, command in commands:
                running[name].append(pool.submit(run, name, command))
            for name in names:
                for done in running[name]:
                    done.result()
                join(name, args)
                print(f"{name}: {time.monotonic() - start[name]:.0f} s", flush=True)
        except RuntimeError:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_all(names: list[str], args: argparse.Namespace) -> None:
    """One table after another, beside them those of the cores and those of methods apart."""
    args.results.mkdir(parents=True, exist_ok=True)
    groups: dict = {}
    for name in names:
        groups.setdefault((TABLES[name].host, TABLES[name].apart), []).append(name)
    start = time.monotonic()
    try:
        with (shared_gpu(names, args.processes) as environment,
              concurrent.futures.ThreadPoolExecutor(len(groups)) as pool):
            for done in [pool.submit(run_tables, group, args, environment)
                         for group in groups.values()]:
                done.result()
    except RuntimeError as error:
        sys.exit(str(error))
    print(f"{len(names)} tables: {time.monotonic() - start:.0f} s", flush=True)


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
