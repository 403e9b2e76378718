#!/usr/bin/env python3
"""Encoding speed with the Llama-3 vocabulary: FreeKV against Hugging Face `tokenizers`, one thread.

10 MB of the book corpus. First all ids must be equal; then both encode the same text in turns and
the best time of each counts. Exits 1 when FreeKV is the slower one. The library takes the text as
one string or in documents, whichever is faster for it.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ.update(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/parity"))
import tokenizers  # noqa: E402
from test_tokenizers import book_texts, ours  # noqa: E402
from tokenizer_forms import FORMS  # noqa: E402


def frame(texts: list[bytes]) -> bytes:
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def seconds_of(encode, *arguments) -> float:
    start = time.perf_counter()
    encode(*arguments)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", default=str(ROOT / "build/release/bin/dump_tokens"))
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--form", choices=FORMS, default="llama-3")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    text = "".join(book_texts(args.megabytes))
    documents = [text[i:i + 100_000] for i in range(0, len(text), 100_000)]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        (path / "tokenizer.json").write_text(json.dumps(FORMS[args.form](documents[:10])))
        library = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))

        def as_documents() -> list[int]:
            encodings = library.encode_batch_fast(documents, add_special_tokens=False)
            return [i for encoding in encodings for i in encoding.ids]

        got = ours(args.program, path, [document.encode() for document in documents])
        if [i for fields in got for i in fields[1]] != as_documents():
            sys.exit("token ids differ")
        print(f"{len(text.encode()) / 1e6:.1f} MB, {sum(len(f[1]) for f in got)} ids, all equal")

        best = {"freekv": 1e9, "tokenizers": 1e9}
        for _ in range(args.rounds):
            done = subprocess.run([args.program, path, "1"], input=frame([text.encode()]),
                                  capture_output=True, check=True)
            best["freekv"] = min(best["freekv"], float(done.stdout))
            best["tokenizers"] = min(best["tokenizers"], seconds_of(
                library.encode_batch_fast, documents))
        best["tokenizers"] = min(best["tokenizers"], seconds_of(library.encode, text))
    megabytes = len(text.encode()) / 1e6
    for name, seconds in best.items():
        print(f"{name:10} {seconds:7.3f} s {megabytes / seconds:7.1f} MB/s")
    ratio = best["tokenizers"] / best["freekv"]
    print(f"freekv is {ratio:.2f} times as fast as tokenizers {tokenizers.__version__} (bar 1.0)")
    sys.exit(ratio < 1)


if __name__ == "__main__":
    main()
