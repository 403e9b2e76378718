"""A table's samples, suites or methods shared out among processes, and their rows put together."""
import argparse
import json
import math
import pathlib
from dataclasses import dataclass

from .tables import TABLES


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
