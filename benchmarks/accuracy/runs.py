"""The runs of `freekv eval` that make the results of tables."""
import argparse
import concurrent.futures
import contextlib
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from .shares import Share, join, shares, split
from .tables import TABLES

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


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
