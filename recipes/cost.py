"""What the recipes cost: their tokens and the sizes of their models in, a table of FLOPs and hours out. An estimate, not a measurement."""

from __future__ import annotations

from decondense.report.tables import Column, Table

# Parameters that multiply, hence not the input embeddings but for a head that is the same matrix; layers and width, for attention.
MODELS = {"gpt2": (124e6, 12, 768), "qwen3-0.6b": (596e6, 28, 2048)}
RUNS = [
    # recipe, model, tokens, context, blocks are run once more by gradient checkpointing
    ("gpt2-*.sh, one arm and seed", "gpt2", 200e6, 1024, True),
    ("qwen3*", "qwen3-0.6b", 156e9, 4096, False),
]
PEAK = {"A100": 312e12, "H100": 989e12}  # dense bfloat16, as the maker states it
SHARE_OF_PEAK = 0.35  # what well-kept trainers reach with models of this size: an assumption


def main() -> None:
    """Print the table."""
    rows: list[list[object]] = []
    for recipe, model, tokens, context, again in RUNS:
        parameters, layers, width = MODELS[model]
        # Forward 2, backward 4 FLOPs a parameter and token; attention 12 a layer, feature and visible token, half of the context on average.
        each = 6 * parameters + 6 * layers * width * context
        flops = tokens * each * (4 / 3 if again else 1)
        hours = [flops / (peak * SHARE_OF_PEAK) / 3600 for peak in PEAK.values()]
        rows.append([recipe, f"{tokens:.3g}", f"{flops:.2g}", *hours, hours[-1] / 8])
    columns: list[Column | str] = ["recipe", "tokens", "FLOPs"]
    columns += [Column(f"hours of one {gpu}", ".1f") for gpu in PEAK]
    print(Table([*columns, Column("hours of 8 H100", ".1f")], rows).markdown())


if __name__ == "__main__":
    main()
