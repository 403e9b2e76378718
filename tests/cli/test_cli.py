#!/usr/bin/env python3
"""The program as a person meets it: outputs, bad input, Ctrl-C.

Bad input must give exactly one line on standard error, nothing on standard output, exit code 2.
"""
import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PROGRAM = ROOT / "build/release/bin/freekv"
MODEL = ROOT / "models/freekv-demo.gguf"
sys.path.insert(0, str(ROOT / "tools/train_demo_model"))
import gguf_file  # noqa: E402

checks = failures = 0


def check(name: str, holds: bool, detail: object = "") -> None:
    global checks, failures
    checks += 1
    if not holds:
        failures += 1
        print(f"FAILED {name}: {detail}")


def run(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess:
    return subprocess.run([PROGRAM, *map(str, arguments)], input=stdin, capture_output=True,
                          timeout=120)


def refused(name: str, expected: str, *arguments: object) -> None:
    done = run(*arguments)
    error = done.stderr.decode(errors="replace")
    good = (done.returncode == 2 and done.stdout == b"" and error.count("\n") == 1
            and re.search(expected, error))
    check(name, bool(good), (done.returncode, done.stdout[:80], error))


def write_model(path: pathlib.Path, **changes: object) -> None:
    """A small file with the keys of a llama model, some of them changed."""
    keys = {"general.architecture": (gguf_file.STRING, "llama")}
    keys.update({k: v for k, v in changes.items() if v is not None})
    gguf_file.write(str(path), [(k, *v) for k, v in keys.items()], [])


def bad_files(folder: pathlib.Path) -> None:
    good = MODEL.read_bytes()
    (folder / "magic.gguf").write_bytes(b"GGML" + good[4:1000])
    (folder / "short.gguf").write_bytes(good[:100000])
    (folder / "empty.gguf").write_bytes(b"")
    # Q4_K is type 12: change the first matrix's type in place.
    reader = gguf_file.Reader(str(MODEL))
    name = "blk.0.attn_q.weight"
    at = good.index(len(name).to_bytes(8, "little") + name.encode()) + 8 + len(name)
    at += 4 + 8 * len(reader.tensors[name][1])
    (folder / "q4k.gguf").write_bytes(good[:at] + (12).to_bytes(4, "little") + good[at + 4:])
    write_model(folder / "arch.gguf", **{"general.architecture": (gguf_file.STRING, "mamba")})

    for command in (("run", "-p", "hi", "-m"), ("info",), ("tokenize",)):
        refused(f"{command[0]} missing file", r"none\.gguf.*[Nn]o such file", *command,
                folder / "none.gguf")
        refused(f"{command[0]} directory", "directory", *command, folder)
        refused(f"{command[0]} magic", "magic", *command, folder / "magic.gguf")
        refused(f"{command[0]} truncated", r"short\.gguf", *command, folder / "short.gguf")
        refused(f"{command[0]} empty", r"empty\.gguf", *command, folder / "empty.gguf")
    refused("tensor type", r"attn_q.*Q4_K|Q4_K.*attn_q", "run", "-m", folder / "q4k.gguf", "-p", "hi")
    refused("architecture", "mamba", "run", "-m", folder / "arch.gguf", "-p", "hi")
    refused("prompt file", r"none\.txt", "run", "-m", MODEL, "-f", folder / "none.txt")
    refused("prompt directory", "directory", "run", "-m", MODEL, "-f", folder)


def bad_options() -> None:
    ask = ("run", "-m", MODEL, "-p", "hi there")
    refused("no prompt", "prompt", "run", "-m", MODEL)
    refused("long prompt", r"\d+ tokens.*limit is 2\b", "run", "-m", MODEL, "--ctx", 2, "-p",
            "one two three four five")
    refused("context", "1000000000", *ask, "--ctx", 1000000000)
    refused("policy", "nosuch.*full", *ask, "--policy", "nosuch")
    refused("policy key", "speed.*tau", *ask, "--policy", "freekv:speed=3")
    refused("policy value", "tau.*fast", *ask, "--policy", "freekv:tau=fast")
    refused("small budget", r"budget is 100.*288", *ask, "--policy", "freekv", "--budget", 100)
    refused("size", "--device-kv.*lots", *ask, "--device-kv", "lots")
    refused("temperature", "-1", *ask, "--temp=-1")
    refused("threads", "threads is -2", *ask, "--threads=-2")
    refused("kv type", "q4", *ask, "--kv-type", "q4")
    refused("activations", "int4", *ask, "--activations", "int4")
    refused("rope scaling", r'rope scaling is "ntk", must be none, linear or yarn', *ask,
            "--rope-scaling", "ntk")
    refused("rope scale", "rope scale is nan, must be 1 or more", *ask, "--rope-scaling", "yarn",
            "--rope-scale", "nan")
    refused("rope scale of nothing", "rope scale is 4, needs the rope scaling linear or yarn", *ask,
            "--rope-scale", 4)
    refused("backend", r"backend is \"gpu\".*cpu, cuda or reference", *ask, "--backend", "gpu")
    # Without its library, a driver or a GPU; this test's program is built without the library.
    refused("no GPU", "libfreekv_cuda.so is not found in /|NVIDIA driver", *ask, "--backend", "cuda")
    refused("auto policy key", "speed.*tau", *ask, "--policy", "auto:speed=3")
    refused("unknown option", "--frobnicate", *ask, "--frobnicate")
    refused("no command", "subcommand", )
    refused("negative n", "-5", *ask, "-n", "-5")


def bad_shapes() -> None:
    """freekv bench --shape: what does not go together is said with both values."""
    gpu = ("bench", "--backend", "cuda")
    ask = (*gpu, "--shape", "tiny")
    refused("unknown shape", r'--shape is "llama-9".*llama-3\.1-8b.*qwen3-8b', *gpu, "--shape", "llama-9")
    refused("shape on the host", "--backend is cpu, --shape runs on cuda", "bench", "--shape", "tiny")
    refused("shape and model", r"--model is x\.gguf and --shape is tiny", *ask, "-m", "x.gguf")
    refused("drift of a model", r"--drift is 0\.5, which needs --shape, one of llama", *gpu,
            "--drift", 0.5)
    refused("two modes", "--split is true.*--prefill 1024", *ask, "--prefill", 1024, "--split")
    refused("shape of a gather", "--shape is tiny.*--gather-table", *ask, "--gather-table")
    refused("ablation of one mechanism", "--mechanism is streamed.*--ablation", *ask, "--ablation",
            "--mechanism", "streamed")
    refused("layout", "--host-layout is token-major and --mechanism is gather", *ask,
            "--host-layout", "token-major")
    refused("mechanism", '--mechanism is "magic".*gather, streamed, per-page', *ask, "--mechanism",
            "magic")
    refused("churn", "--churn is 3, must be at most 1", *ask, "--churn", 3)
    refused("option of a model", r"--tau is 0\.5.*--shape tiny", *ask, "--tau", 0.5)
    refused("policy of a shape", "policy oracle does not run.*blocking, freekv, ", *ask,
            "--policies", "oracle")
    refused("coverage of a shape", "policy freekv-coverage corrects by attention mass", *ask,
            "--policies", "freekv-coverage")
    refused("budget of a shape", r"budget is 100.*288", *ask, "--budget", 100)
    for mode in ((*gpu, "--gather-table"), ask, (*ask, "--ablation"), (*ask, "--prefill", 64)):
        refused("shape without a GPU", "libfreekv_cuda.so is not found in /|NVIDIA driver", *mode)


def good_input() -> None:
    done = run("run", "-m", MODEL, "-p", "The house stood", "-n", 8, "--stats", "json")
    check("run", done.returncode == 0 and len(done.stdout) > 1, done)
    stats = json.loads(done.stderr)
    check("stats", stats["generated_tokens"] == 8 and stats["policy"] == "full", stats)
    again = run("run", "-m", MODEL, "-p", "The house stood", "-n", 8, "--stats", "none")
    check("same text, no statistics", again.stdout == done.stdout and again.stderr == b"", again)
    one = run("run", "-m", MODEL, "-p", "The house", "-n", 12, "--temp", 1, "--seed", 7)
    two = run("run", "-m", MODEL, "-p", "The house", "-n", 12, "--temp", 1, "--seed", 7)
    check("seed", one.stdout == two.stdout and one.returncode == 0, (one, two))

    raw = run("run", "-m", MODEL, "-p", b"\xff\xfe\x80 caf\xe9".decode("latin-1"), "-n", 1)
    check("latin text", raw.returncode == 0, raw)
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"\xff\xfe\x80 caf\xe9 \xf0\x9f")
        file.flush()
        check("invalid UTF-8 is bytes", run("run", "-m", MODEL, "-f", file.name, "-n", 1).returncode
              == 0)
        ids = run("tokenize", MODEL, "-f", file.name)
        check("tokenize", re.fullmatch(rb"\d+( \d+)*\n", ids.stdout) is not None, ids)
    info = run("info", MODEL, "--tensors")
    check("info", info.returncode == 0 and b"llama: 6 layers" in info.stdout
          and b"blk.5.ffn_down.weight" in info.stdout, info)
    backends = run("info").stdout.decode()
    check("backends", re.search(r"^cpu .*\n^reference .*\n^cuda ", backends, re.MULTILINE), backends)
    for context, chosen in ((2048, "full"), (131072, "freekv")):
        auto = run("run", "-m", MODEL, "-p", "The house", "-n", 4, "--policy", "auto", "--ctx", context)
        check("auto policy", f"policy   {chosen}, since" in auto.stderr.decode(), auto)
    check("zero tokens", run("run", "-m", MODEL, "-p", "hi", "-n", 0).stdout == b"")
    check("help", run("--help").returncode == 0)


def interrupted() -> None:
    """Ctrl-C during generation, and during a long prefill."""
    long = (ROOT / "models/demo_document.txt").read_text() * 4
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(long)
        file.flush()
        for name, arguments in (("generation", ("-p", "The house", "-n", "100000")),
                                ("prefill", ("-f", file.name, "-n", "4"))):
            process = subprocess.Popen([PROGRAM, "run", "-m", MODEL, "--stats", "json", *arguments],
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            time.sleep(1.0)
            process.send_signal(signal.SIGINT)
            try:
                _, error = process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                check(f"Ctrl-C in {name}", False, "did not end")
                continue
            last = error.decode().strip().splitlines()[-1]
            check(f"Ctrl-C in {name}", process.returncode == 130 and
                  json.loads(last)["end"] == "cancelled", (process.returncode, error[-300:]))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        bad_files(pathlib.Path(folder))
    bad_options()
    bad_shapes()
    good_input()
    interrupted()
    print(f"{checks - failures} passed, {failures} failed")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
