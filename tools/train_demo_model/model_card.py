"""Writes the model card, models/README.md, from the results of a run.

    python model_card.py results.json ../../models/README.md
"""

import json
import os
import sys

MEANING = {
    "needle_numbers": "RULER's needle: 24 keys with a number of 7 digits each, one asked",
    "needle_words": "the same with two-word values",
    "needle_uuids": "the same with UUIDs",
    "multi_value": "RULER's multi-value: all 4 numbers of a key, in document order",
    "multi_value_3_keys": "the same among two more keys of 4 numbers",
    "variable_tracking": "RULER's variable tracking: one chain, 4 hops",
    "variable_tracking_3_chains": "the same among two more chains",
    "room_chain": "24 doors in any order, the asked path passes 12 to 20 of them",
    "ledger": "write out 40 scattered entries in order (about 320 tokens)",
}

def table(columns):
    """The scores as a Markdown table: exact match, and RULER's share of named values.

    columns: list of (heading, {task: score}); a task may be missing from a column.
    """
    lines = ["| task | " + " | ".join(heading for heading, _ in columns) + " | what it is |",
             "|---|" + "---|" * len(columns) + "---|"]
    for task, meaning in MEANING.items():
        cells = []
        for _, scores in columns:
            s = scores.get(task)
            more = f" ({s['values']:.3f})" if s and "values" in s else ""
            cells.append(f"{s['exact']:.3f}{more}" if s else "-")
        lines.append(f"| {task} | " + " | ".join(cells) + f" | {meaning} |")
    return "\n".join(lines)


def columns_of(summary):
    """The summary's columns, or one for each evaluated length."""
    results = summary.get("results", {})
    return summary.get("columns") or [
        (f"{int(n) // 1024}K, {summary['samples']} samples", results[n])
        for n in sorted(results, key=int)]


def card(s):
    """The text of the card from a run's summary."""
    c = s["config"]
    with open(os.path.join(os.path.dirname(__file__), "prompt_formats.md"),
              encoding="utf-8") as file:
        formats = file.read()
    cycles = "; then ".join(
        f"{seconds:g} s at peak learning rates x {peak:g} of "
        + ", ".join(f"{length} x {batch}" for length, batch, _ in phases)
        for phases, seconds, peak in s["cycles"])
    longest = max(p[0] for phases, _, _ in s["cycles"] for p in phases)
    arguments = " ".join(os.path.basename(a) for a in s["arguments"])
    return f"""# FreeKV demo model
`freekv-demo.gguf`: a llama of {c['layers']} layers (d_model {c['d_model']}, {c['heads']} query \
and {c['kv_heads']} KV heads of {c['head_dim']}, ffn {c['ffn']},
RoPE theta {c['rope_theta']:g}, tied embeddings, vocabulary {c['vocab']}) that finds facts in long \
documents. {s['kind']}, norm
weights F32,
{s['bytes']:,} bytes. Trained on sequences of up to {longest:,} tokens.

## Scores
Dense and greedy, exact match of the whole answer, on fresh samples over book text that was held \
out of training;
the weights are the file's. In brackets RULER's own score, the share of the values that the answer \
names.
{s.get('score_note', '')}

{table(columns_of(s))}

{formats}
## How it was made
`tools/train_demo_model/train_demo_model.py {arguments}`
on one {s['device']} with PyTorch {s['torch']}, commit {s['commit']}: {s['train_seconds']} s of \
training ({s['tokens'] / 1e6:,.0f}M tokens in
{s['steps']:,} steps; length x batch: {cycles}),
{s['total_seconds']} s in all. Data: 179 English books in the public domain and the generated \
tasks above. Muon for the
layers' matrices, AdamW for the rest.
{s.get('training_note', '')}
"""


def write(path, summary):
    """Writes the card to `path`."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(card(summary))


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as results_file:
        write(sys.argv[2], json.load(results_file))
