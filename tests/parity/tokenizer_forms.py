"""Tokenizers in the forms that model families publish, as documents of tokenizer.json.

The vocabularies are small ones trained on the corpus by Hugging Face `tokenizers`, and the published
ones in ../shared; components and added tokens are those of the families' files.
"""
import functools
import json
import pathlib

import gguf
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

VOCAB = pathlib.Path(__file__).resolve().parents[2] / "../shared/data/vocab"

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
TEKKEN = (rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]*[{LOWER}]+|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]+[{LOWER}]*"
          r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + TAIL)


def added(id: int, content: str, special: bool = True, **flags: bool) -> dict:
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": special} | flags


def byte_level(use_regex: bool) -> dict:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
            "use_regex": use_regex}


def split(expression: str, behavior: str = "Isolated", invert: bool = False) -> dict:
    pattern = {"type": "Split", "pattern": {"Regex": expression}, "behavior": behavior,
               "invert": invert}
    return {"type": "Sequence", "pretokenizers": [pattern, byte_level(False)]}


def begins_with(token: dict) -> dict:
    text, sequence = token["content"], [{"Sequence": {"id": "A", "type_id": 0}}]
    return {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": text, "type_id": 0}}] + sequence, "pair": sequence,
            "special_tokens": {text: {"id": text, "ids": [token["id"]], "tokens": [text]}}}


def document(vocab: dict, merges: list, tokens: list[dict], normalizer, pre_tokenizer, post_processor,
             decoder, **model) -> dict:
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens,
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
            "post_processor": post_processor, "decoder": decoder,
            "model": {"type": "BPE", "dropout": None, "unk_token": None,
                      "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": vocab, "merges": merges} | model}


def train(pre_tokenizer: dict, texts: list[str], size: int) -> tuple[dict, list]:
    """A byte-level vocabulary and its merges as pairs."""
    tokenizer = Tokenizer(models.BPE())
    wrapped = json.loads(tokenizer.to_str())
    wrapped["pre_tokenizer"] = pre_tokenizer
    tokenizer = Tokenizer.from_str(json.dumps(wrapped))
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [m if isinstance(m, list) else m.split(" ") for m in model["merges"]]


def gpt2(_: list[str]) -> dict:
    reader = gguf.GGUFReader(VOCAB / "gpt-2.gguf")
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    merges = reader.fields["tokenizer.ggml.merges"].contents()
    end = added(len(tokens) - 1, "<|endoftext|>", normalized=True)
    return document({t: i for i, t in enumerate(tokens)}, merges, [end], None, byte_level(True),
                    byte_level(True), byte_level(True))


def llama3(_: list[str]) -> dict:
    vocab = json.loads((VOCAB / "llama3-encoder.json").read_text())
    merges = [line for line in (VOCAB / "llama3-merges.bpe").read_text().split("\n") if line]
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
             "<|eot_id|>"]
    tokens = [added(len(vocab) + i, name) for i, name in enumerate(names)]
    post = {"type": "Sequence", "processors": [byte_level(True), begins_with(tokens[0])]}
    return document(vocab, merges, tokens, None, split(LLAMA3), post, byte_level(True),
                    ignore_merges=True)


def distill_llama(texts: list[str]) -> dict:
    """The DeepSeek-R1 distills of Llama: its vocabulary with tokens of their own."""
    form = llama3(texts)
    first = len(form["model"]["vocab"])
    tokens = [added(first, "<｜begin▁of▁sentence｜>"), added(first + 1, "<｜end▁of▁sentence｜>"),
              added(first + 2, "<｜User｜>", special=False),
              added(first + 3, "<｜Assistant｜>", special=False),
              added(first + 4, "<think>", special=False),
              added(first + 5, "</think>", special=False)]
    return form | {"added_tokens": tokens, "post_processor": begins_with(tokens[0])}


def nemo(texts: list[str]) -> dict:
    vocab, merges = train(split(TEKKEN), texts, 6000)
    size = len(vocab)
    tokens = [added(size + i, name) for i, name in enumerate(
        ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "<pad>"])]
    return document(vocab, merges, tokens, None, split(TEKKEN, "Removed", True),
                    begins_with(tokens[1]), byte_level(True), ignore_merges=True)


def qwen2(texts: list[str]) -> dict:
    vocab, merges = train(split(QWEN2), texts, 6000)
    size = len(vocab)
    tokens = [added(size, "<|endoftext|>"), added(size + 1, "<|im_start|>"),
              added(size + 2, "<|im_end|>"), added(size + 3, "<tool_call>", special=False),
              added(size + 4, "</tool_call>", special=False)]
    return document(vocab, [" ".join(m) for m in merges], tokens, {"type": "NFC"}, split(QWEN2),
                    byte_level(False), byte_level(False), continuing_subword_prefix="",
                    end_of_word_suffix="")


def odd_tokens(texts: list[str]) -> dict:
    """Every flag of added tokens, with a normalizer that their texts go through."""
    form = qwen2(texts)
    size = len(form["model"]["vocab"])
    tokens = [added(size, "<|endoftext|>", lstrip=True), added(size + 1, "<|im_end|>", rstrip=True),
              added(size + 2, "Mask", special=False, single_word=True),
              added(size + 3, "<both>", special=False, lstrip=True, rstrip=True),
              added(size + 4, "e\u0301t", special=False, normalized=True),
              added(size + 5, "<both>x", special=False, normalized=True),
              added(size + 6, "word", special=False, single_word=True, normalized=True,
                    lstrip=True)]
    return form | {"added_tokens": tokens}


def sentencepiece_merges(tokens: list[str], scores: list[float]) -> tuple[dict, list]:
    """Merges of a SentencePiece vocabulary, as transformers' converter finds them."""
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = []
    for token, score in zip(tokens, scores):
        local = [(token[:i], token[i:], score) for i in range(1, len(token))
                 if token[:i] in vocab and token[i:] in vocab]
        merges += sorted(local, key=lambda m: (vocab[m[0]], vocab[m[1]]))
    merges.sort(key=lambda m: (m[2], len(m[0]), len(m[1])), reverse=True)
    return vocab, [[left, right] for left, right, _ in merges]


PREPEND = {"type": "Prepend", "prepend": "▁"}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}


def spm_decoder(strip: bool) -> dict:
    parts = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
             {"type": "ByteFallback"}, {"type": "Fuse"}]
    if strip:
        parts.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": parts}


@functools.cache
def llama_spm() -> tuple[dict, list]:
    reader = gguf.GGUFReader(VOCAB / "llama-spm.gguf")
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    scores = reader.fields["tokenizer.ggml.scores"].contents()
    return sentencepiece_merges(tokens, scores)


def llama2(_: list[str]) -> dict:
    vocab, merges = llama_spm()
    special = [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")]
    return document(vocab, [" ".join(m) for m in merges], special,
                    {"type": "Sequence", "normalizers": [PREPEND, REPLACE]}, None,
                    begins_with(special[1]), spm_decoder(True), unk_token="<unk>", fuse_unk=True,
                    byte_fallback=True)


def llama1(texts: list[str]) -> dict:
    """Special tokens that are normalized, as in the first conversions, and one of the user's."""
    form = llama2(texts)
    tokens = [added(0, "<unk>", normalized=True), added(1, "<s>", normalized=True),
              added(2, "</s>", normalized=True), added(32000, "<tool>", special=False)]
    return form | {"added_tokens": tokens}


def mistral(texts: list[str], scheme: str = "first", one_piece: bool = False) -> dict:
    """Metaspace instead of normalizers, as conversions without `legacy` have."""
    form = llama2(texts)
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme,
                 "split": one_piece}
    tokens = form["added_tokens"] + [added(32000, "[INST]"), added(32001, "[/INST]")]
    return form | {"normalizer": None, "pre_tokenizer": metaspace, "added_tokens": tokens,
                   "decoder": spm_decoder(scheme != "never")}


def no_bytes(texts: list[str]) -> dict:
    """Characters without a token become the unknown token, one for a run."""
    form = llama2(texts)
    return form | {"model": form["model"] | {"byte_fallback": False}}


FORMS = {
    "gpt-2": gpt2, "llama-3": llama3, "r1-distill-llama": distill_llama, "nemo": nemo,
    "qwen-2": qwen2, "odd-tokens": odd_tokens, "llama-2": llama2, "llama-1": llama1,
    "mistral": mistral,
    "metaspace-split": lambda texts: mistral(texts, "always", True),
    "metaspace-never": lambda texts: mistral(texts, "never"),
    "no-bytes": no_bytes,
}
