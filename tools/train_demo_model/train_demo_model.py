"""Makes the demo model: tokenizer, training, evaluation, GGUF file and model card.

    python train_demo_model.py --books books.txt.xz --out ../../models
    python train_demo_model.py --books books.txt.xz --out smoke --smoke

The first takes under 25 minutes on one H200; the second shows on a CPU, in under a minute, that
every part runs, with a tiny model that learns nothing.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

import data  # noqa: E402
import evaluate  # noqa: E402
import export_gguf  # noqa: E402
import model_card  # noqa: E402
import tokenizer as tokenizer_module  # noqa: E402
import train  # noqa: E402
from model import Config  # noqa: E402

BEGIN = time.monotonic()


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.
                                     RawDescriptionHelpFormatter)
    parser.add_argument("--books", required=True, help="text, or .xz; <|endoftext|> ends a book")
    parser.add_argument("--out", required=True, help="folder for the model and its card")
    parser.add_argument("--work", help="folder for checkpoint and log (default: OUT)")
    parser.add_argument("--tokenizer", help="use this tokenizer.json instead of training one")
    parser.add_argument("--minutes", type=float, default=17.5, help="time of the main cycle")
    parser.add_argument("--samples", type=int, default=128, help="per task and length")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", default="Q8_0", choices=("F32", "F16", "BF16", "Q8_0"))
    parser.add_argument("--processes", type=int, default=min(13, (os.cpu_count() or 2) - 1))
    parser.add_argument("--smoke", action="store_true", help="a tiny run on the CPU")
    return parser.parse_args()


class Log:
    """Prints and writes lines with the time since the start."""

    def __init__(self, path):
        self.file = open(path, "a", encoding="utf-8")

    def __call__(self, text):
        line = f"[{time.monotonic() - BEGIN:6.1f}] {text}"
        print(line, flush=True)
        self.file.write(line + "\n")
        self.file.flush()


def make_tokenizer(args, documents, path):
    """Trains the tokenizer, or copies the given one, to `path`."""
    if args.tokenizer:
        if os.path.abspath(args.tokenizer) != os.path.abspath(path):
            shutil.copyfile(args.tokenizer, path)
        return Tokenizer.from_file(path)
    lines = (line for d in documents for line in d.splitlines(keepends=True)[::3])
    count = 20 if args.smoke else 400
    tokenizer_module.train(lines, task_count=count).save(path)
    return Tokenizer.from_file(path)


def commit():
    """The commit of this working tree, or 'unknown'."""
    here = os.path.dirname(os.path.abspath(__file__))
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=here, text=True,
                           capture_output=True, check=False)
    return found.stdout.strip() or "unknown"


def main():
    """Everything, one stage after the other."""
    args = arguments()
    work = args.work or args.out
    os.makedirs(args.out, exist_ok=True)
    os.makedirs(work, exist_ok=True)
    log = Log(os.path.join(work, "train.log"))
    device = "cuda" if torch.cuda.is_available() and not args.smoke else "cpu"
    torch.manual_seed(args.seed)
    config, lengths = Config(), (8192, 32768)
    cycles = ((train.PHASES, 60 * args.minutes, 1.0),
              (train.FINISH, train.FINISH_SECONDS, train.FINISH_PEAK))
    processes = args.processes
    if args.smoke:
        torch.set_num_threads(1)
        config = Config(d_model=64, layers=2, heads=4, kv_heads=2, head_dim=32, ffn=96)
        cycles = ((((256, 4, 0.5), (512, 2, 0.5)), 6, 1.0), (((512, 2, 1.0),), 2, 0.3))
        lengths = (2048,)
        args.samples, processes = 2, 1

    documents = data.read_books(args.books)
    if args.smoke:
        documents = [d[:100000] for d in documents[:8]]
    words = data.frequent_words(documents)
    tokenizer_path = os.path.join(work, "tokenizer.json")
    tokenizer = make_tokenizer(args, documents, tokenizer_path)
    log(f"{len(documents)} books, {len(words)} frequent words, tokenizer of "
        f"{tokenizer.get_vocab_size()}")
    tokens = data.encode_books(documents, tokenizer_path, max(1, processes))
    corpus, held_out = data.Corpus(tokens, tokenizer, words).split(evaluate.HELD_OUT)
    log(f"{len(tokens)} tokens, {len(held_out.tokens)} of them held out")

    trainer = train.Trainer(config, device, log, compiled=not args.smoke)
    train_begin, seen, steps, history = time.monotonic(), 0, 0, []
    for number, (phases, seconds, peak) in enumerate(cycles):
        trainer.restart(peak)
        made = train.train(
            trainer, corpus, seconds, phases, processes, args.seed + 6 * number,
            os.path.join(work, f"checkpoint{number}.pt"), log_every=1.0 if args.smoke else 10.0)
        seen, steps, history = seen + made[0], steps + made[1], history + made[2]
    train_seconds = time.monotonic() - train_begin

    path = os.path.join(args.out, "freekv-demo.gguf")
    export_gguf.export(path, trainer.model, tokenizer, args.kind)
    log(f"wrote {os.path.getsize(path)} bytes; {seen / 1e6:.0f}M tokens in {steps} steps")
    # What is evaluated is the file: its weights, dequantised.
    model = export_gguf.load(path, device, trainer.dtype)
    results, failures = evaluate.evaluate(model, held_out, lengths, args.samples, processes, log)
    summary = {
        "results": results, "samples": args.samples, "train_seconds": round(train_seconds),
        "total_seconds": round(time.monotonic() - BEGIN), "tokens": seen, "steps": steps,
        "cycles": cycles, "kind": args.kind, "bytes": os.path.getsize(path),
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "torch": torch.__version__, "commit": commit(), "arguments": sys.argv[1:],
        "config": config.as_dict(), "failures": failures, "history": history}
    with open(os.path.join(work, "results.json"), "w", encoding="utf-8") as file:
        json.dump(summary, file, indent=1)
    model_card.write(os.path.join(args.out, "README.md"), summary)
    log("done")


if __name__ == "__main__":
    main()
