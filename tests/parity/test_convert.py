#!/usr/bin/env python3
"""A converted checkpoint keeps its tokenizer: ids, control tokens, chat template and answers.

Small tokenizers of the three kinds (Qwen's and Llama 3's byte-level BPE, SentencePiece BPE as in
Llama 2) beside tiny random models: `freekv tokenize` must give the same ids as Hugging Face
`tokenizers` from the folder and from the GGUF file, and `freekv run` the same text from both.
"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import gguf
import torch
import transformers
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        trainers)

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PROGRAM = ROOT / "build/release/bin/freekv"
DOCUMENT = (ROOT / "models/demo_document.txt").read_text()
VOCAB = 640  # of the models; the tokenizers have fewer, as Qwen's has
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>{% endfor %}"
TEXTS = ["Hello world", " leading and  double spaces", "It's 12345 o'clock!\n\nNext\tline",
         "naïve café — “quotes”, 中文 🦙", "<|im_start|>user\nhi<|im_end|>", "a" * 50,
         DOCUMENT[:3000]]
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3 = QWEN.replace(r"\p{N}| ?", r"\p{N}{1,3}| ?")


def byte_level(pattern: str, nfc: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.train_from_iterator([DOCUMENT], trainers.BpeTrainer(
        vocab_size=560, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in (
        "<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    return tokenizer


def pieces() -> Tokenizer:
    """SentencePiece BPE in the form transformers converts Llama 2 to."""
    fallback = [f"<0x{b:02X}>" for b in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"),
                                                 normalizers.Replace(" ", "▁")])
    tokenizer.train_from_iterator([DOCUMENT], trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<unk>", "<s>", "</s>", *fallback], show_progress=False))
    # Bytes are ordinary tokens of the model in real files, not added ones.
    text = tokenizer.to_str()
    document = json.loads(text)
    document["added_tokens"] = [t for t in document["added_tokens"] if t["id"] < 3]
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(content=" ", left=1, right=0)])
    return tokenizer


def ids(model: pathlib.Path, text: str) -> list[int]:
    done = subprocess.run([PROGRAM, "tokenize", model, "--special"], input=text.encode(),
                          capture_output=True, check=True)
    return [int(t) for t in done.stdout.split()]


def answer(model: pathlib.Path) -> bytes:
    return subprocess.run([PROGRAM, "run", "-m", model, "-p", "The house", "-n", "12", "--stats",
                           "none", "--kv-type", "f32"], capture_output=True, check=True).stdout


def check(name: str, family: str, tokenizer: Tokenizer, eos: str, folder: pathlib.Path) -> bool:
    config = getattr(transformers, family + "Config")(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256)
    torch.manual_seed(1)
    model = getattr(transformers, family + "ForCausalLM")(config)
    model.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=eos, chat_template=TEMPLATE).save_pretrained(folder)
    file = folder.with_suffix(".gguf")
    subprocess.run([PROGRAM, "convert", folder, file, "--type", "f32"], check=True)

    good = answer(folder) == answer(file)
    for text in TEXTS:
        want = tokenizer.encode(text, add_special_tokens=False).ids
        for path in (folder, file):
            got = ids(path, text)
            if got != want:
                good = False
                print(f"{name} {path.name} {text[:20]!r}: {got[:20]} but {want[:20]}")
    keys = gguf.GGUFReader(file).fields
    good &= keys["tokenizer.chat_template"].contents() == TEMPLATE
    good &= keys["tokenizer.ggml.eos_token_id"].contents() == tokenizer.token_to_id(eos)
    tokens = keys["tokenizer.ggml.tokens"].contents()
    good &= len(tokens) == VOCAB and re.fullmatch(r"\[PAD\d+\]", tokens[-1]) is not None
    print(f"{name:8} {'ok' if good else 'FAILED'}", flush=True)
    return good


def main() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    failures = 0
    with tempfile.TemporaryDirectory() as temporary:
        for name, family, tokenizer, eos in (
                ("qwen2", "Qwen2", byte_level(QWEN, True), "<|endoftext|>"),
                ("llama-3", "Llama", byte_level(LLAMA3, False), "<|im_end|>"),
                ("llama-2", "Llama", pieces(), "</s>")):
            failures += not check(name, family, tokenizer, eos, pathlib.Path(temporary) / name)
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
