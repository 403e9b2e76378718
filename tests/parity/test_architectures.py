#!/usr/bin/env python3
"""Logits of small random models of every family and RoPE variant against transformers.

A 600-token prompt and 32 decode steps, teacher-forced, all in F32: the largest over positions of
|ours - theirs| / |theirs| must be at most 1e-3. Checkpoints are those that transformers writes; some
are rewritten in the form of its version 4, some have their weights in F16 or BF16 (transformers then
computes with these weights in F32, as we do), one is sharded. The same bound holds for each
checkpoint converted to an F32 GGUF file. Converted to other types, every tensor must have the bits
that the gguf package gives it, and logits stay within the type's error.

test_architectures.py [NAME...] runs the named cases only.
"""
import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DUMP = ROOT / "build/release/bin/dump_logits"
PROGRAM = ROOT / "build/release/bin/freekv"
PROMPT, STEPS, VOCAB, BOUND = 600, 32, 320, 1e-3


@dataclasses.dataclass
class Case:
    name: str
    family: str  # of transformers: Llama, Mistral, Qwen2, Qwen3
    head_dim: int
    heads: int
    kv_heads: int
    hidden: int = 128
    tied: bool = False
    rope: dict = dataclasses.field(default_factory=dict)
    extra: dict = dataclasses.field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    sharded: bool = False
    version4: bool = False  # config.json as transformers 4 wrote it
    all_types: bool = False  # convert to every type, not F32 alone


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 256}
CASES = [
    Case("llama", "Llama", 64, 6, 2, hidden=192, all_types=True),
    Case("llama-1", "Llama", 32, 4, 4, version4=True, dtype=torch.float16),
    Case("llama-3.1", "Llama", 128, 4, 2, tied=True, rope={**LLAMA3, "rope_theta": 500000.0},
         dtype=torch.bfloat16),
    Case("llama-3.1-v4", "Llama", 64, 8, 2, rope={**LLAMA3, "rope_theta": 500000.0}, version4=True),
    Case("llama-bias", "Llama", 80, 4, 1, extra={"attention_bias": True}),
    Case("llama-linear", "Llama", 128, 5, 1, hidden=160, rope={"rope_type": "linear", "factor": 4.0},
         sharded=True),
    Case("llama-dynamic", "Llama", 80, 4, 2, rope={"rope_type": "dynamic", "factor": 4.0},
         extra={"max_position_embeddings": 256}),
    Case("llama-dynamic-v4", "Llama", 64, 2, 2, rope={"rope_type": "dynamic", "factor": 2.0},
         extra={"max_position_embeddings": 610}, version4=True),
    Case("llama-yarn", "Llama", 96, 6, 1, hidden=192, rope=YARN),
    Case("mistral-window", "Mistral", 64, 8, 2, extra={"sliding_window": 1024}),
    Case("mistral-nemo", "Mistral", 128, 4, 1, hidden=160,
         rope={"rope_type": "default", "rope_theta": 1000000.0}, extra={"sliding_window": None}),
    Case("mistral-yarn", "Mistral", 96, 4, 2, extra={"sliding_window": None},
         rope={**YARN, "mscale": 1.0, "mscale_all_dim": 0.5, "beta_fast": 16.0, "beta_slow": 2.0}),
    Case("qwen2", "Qwen2", 64, 7, 1, hidden=448, tied=True),
    Case("qwen2-yarn-v4", "Qwen2", 64, 10, 2, hidden=640, dtype=torch.bfloat16, version4=True,
         rope={**YARN, "attention_factor": 1.3, "rope_theta": 1000000.0}),
    Case("qwen2-window-off", "Qwen2", 128, 2, 1, hidden=256, version4=True,
         extra={"use_sliding_window": False, "sliding_window": 64, "max_window_layers": 1}),
    Case("qwen3", "Qwen3", 128, 4, 2, tied=True, all_types=True),
    Case("qwen3-256", "Qwen3", 256, 3, 1, hidden=192, extra={"attention_bias": True}),
    Case("qwen3-group-16", "Qwen3", 64, 16, 1, rope=YARN, dtype=torch.bfloat16),
    Case("r1-distill-llama", "Llama", 128, 8, 2, hidden=320, dtype=torch.bfloat16,
         rope={**LLAMA3, "rope_theta": 500000.0}),
    Case("r1-distill-qwen", "Qwen2", 64, 12, 2, hidden=768, dtype=torch.bfloat16,
         rope={"rope_type": "default", "rope_theta": 10000.0}),
]


def make_model(case: Case) -> torch.nn.Module:
    """Weights drawn so that attention is sharp and every bias and norm matters."""
    config = getattr(transformers, case.family + "Config")(
        vocab_size=VOCAB, hidden_size=case.hidden, intermediate_size=case.hidden * 2,
        num_hidden_layers=2, num_attention_heads=case.heads, num_key_value_heads=case.kv_heads,
        tie_word_embeddings=case.tied, attn_implementation="eager", bos_token_id=1, eos_token_id=2,
        **{"max_position_embeddings": 1024, "head_dim": case.head_dim, **case.extra,
           **({"rope_parameters": dict(case.rope)} if case.rope else {})})
    torch.manual_seed(sum(case.name.encode()))
    model = getattr(transformers, case.family + "ForCausalLM")(config).eval()
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape)
        if "norm" in name:
            value = 1 + 0.3 * noise
        elif name.endswith("bias"):
            value = 0.5 * noise
        elif "embed" in name:
            value = noise
        else:
            sharp = 1.6 if "q_proj" in name or "k_proj" in name else 1.0
            value = sharp * noise / parameter.shape[1] ** 0.5
        parameter.data = value.to(case.dtype)
    return model


def to_version4(path: pathlib.Path) -> None:
    """config.json with rope_theta and rope_scaling in place of rope_parameters."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters", None) or {}
    config["rope_theta"] = rope.pop("rope_theta", 10000.0)
    rope["type"] = rope.pop("rope_type", "default")
    config["rope_scaling"] = None if rope["type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype", "float32")
    config.pop("layer_types", None)
    path.write_text(json.dumps(config))


def save(case: Case, model: torch.nn.Module, folder: pathlib.Path) -> None:
    model.save_pretrained(folder, **({"max_shard_size": "200KB"} if case.sharded else {}))
    assert case.sharded == (folder / "model.safetensors.index.json").exists()
    if case.version4:
        to_version4(folder / "config.json")


@torch.no_grad()
def their_logits(model: torch.nn.Module, ids: list[int], stepwise: bool) -> np.ndarray:
    """After each token from the prompt's last on; in one pass where steps would give the same."""
    if not stepwise:
        return model(torch.tensor([ids])).logits[0].numpy()[PROMPT - 1:]
    out = model(torch.tensor([ids[:PROMPT]]), use_cache=True)
    rows = [out.logits[0, -1]]
    for token in ids[PROMPT:]:
        out = model(torch.tensor([[token]]), past_key_values=out.past_key_values, use_cache=True)
        rows.append(out.logits[0, -1])
    return torch.stack(rows).numpy()


def our_logits(model: pathlib.Path, policy: str, ids: list[int]) -> np.ndarray:
    done = subprocess.run([DUMP, model, "cpu", "f32", policy, str(PROMPT)],
                          input=" ".join(map(str, ids)).encode(), capture_output=True)
    if done.returncode != 0:
        sys.exit(f"dump_logits: {done.stderr.decode().strip()}")
    return np.frombuffer(done.stdout, np.float32).reshape(len(ids) - PROMPT + 1, -1)


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    return float((np.linalg.norm(got - want, axis=1) / np.linalg.norm(want, axis=1)).max())


def converted(folder: pathlib.Path, kind: str) -> pathlib.Path:
    path = folder.with_name(f"{kind}.gguf")
    subprocess.run([PROGRAM, "convert", folder, path, "--type", kind], check=True)
    return path


def gguf_names(name: str) -> str:
    """The name a checkpoint's tensor has in a GGUF file, as the gguf package maps it."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 8)
    qwen3 = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, 8)
    suffixes = (".weight", ".bias")
    return names.get_name(name, suffixes) or qwen3.get_name(name, suffixes)


def paired(tensor: np.ndarray, heads: int) -> np.ndarray:
    """A head's rows from halves to pairs."""
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def same_tensors(case: Case, model: torch.nn.Module, path: pathlib.Path, kind: str) -> bool:
    """Every tensor, as the gguf package reads the file, has the bits of its type."""
    reader = gguf.GGUFReader(path)
    tensors = {t.name: t for t in reader.tensors}
    tensors.pop("rope_freqs.weight", None)
    wanted = {name: p.detach().float().numpy() for name, p in model.named_parameters()}
    good = tensors.keys() == {gguf_names(name) for name in wanted}
    for name, values in wanted.items():
        if case.family in ("Llama", "Mistral") and ("q_proj" in name or "k_proj" in name):
            values = paired(values, case.heads if "q_proj" in name else case.kv_heads)
        tensor = tensors[gguf_names(name)]
        want = gguf.GGMLQuantizationType[kind.upper() if values.ndim > 1 else "F32"]
        bits = gguf.quantize(values, want).view(np.uint8)
        good &= tensor.tensor_type == want and np.array_equal(tensor.data.view(np.uint8), bits)
    return good


# Largest errors of logits that the rounding of weights may cause in these models.
TYPE_BOUNDS = {"f16": 5e-3, "bf16": 3e-2, "q8_0": 6e-2}


def run(case: Case, folder: pathlib.Path) -> bool:
    model = make_model(case)
    save(case, model, folder)
    ids = torch.randint(0, VOCAB, (PROMPT + STEPS,)).tolist()
    want = their_logits(model.float(), ids, case.rope.get("rope_type") == "dynamic")
    errors = {policy: relative_error(our_logits(folder, policy, ids), want)
              for policy in ("full", "freekv")}
    path = converted(folder, "f32")
    errors["GGUF"] = relative_error(our_logits(path, "full", ids), want)
    good = all(error <= BOUND for error in errors.values())
    good &= same_tensors(case, model, path, "f32")
    for kind, bound in TYPE_BOUNDS.items() if case.all_types else ():
        path = converted(folder, kind)
        errors[kind] = relative_error(our_logits(path, "full", ids), want)
        good &= errors[kind] <= bound and same_tensors(case, model, path, kind)
    print(f"{case.name:18}", *(f"{name} {error:.1e}" for name, error in errors.items()),
          "ok" if good else f"FAILED (bound {BOUND:.0e})", flush=True)
    return good


def main() -> None:
    torch.set_num_threads(2)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    cases = [case for case in CASES if len(sys.argv) == 1 or case.name in sys.argv[1:]]
    failures = 0
    for case in cases:
        with tempfile.TemporaryDirectory() as temporary:
            failures += not run(case, pathlib.Path(temporary) / case.name)
    print(f"{len(cases) - failures} passed, {failures} failed")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
