"""The authors' package and a model in, embedding_condensation.json beside this file out. Knows nothing of decondense.

The package pins an old transformers but runs with the present one, so install it aside, without its dependencies:

    pip install --target ASIDE nltk
    pip install --target ASIDE --no-deps embedding-condensation==2.0
    PYTHONPATH=ASIDE python tests/golden/record_embedding_condensation.py DATA

DATA is the folder of real data. Importing the package tries to download nltk's sentence model, which it needs only to
draw random texts: that may fail.

Its conventions: the model sees one text at a time; each entry of `hidden_states` becomes float32, and each token is
divided by max(its length, 1e-3); the N x N matrix of inner products, diagonal included, is clipped to [-1, 1] and
averaged over texts, which must therefore have one number of tokens. It returns these matrices. The layer mean is the
mean of all N^2 entries; its figure shows their histogram, 128 bins on [-1, 1], as a density.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import scipy.stats
import torch
from embedding_condensation import measure_embedding_condensation
from transformers import AutoModel, AutoTokenizer

TEXTS, CHARACTERS, EVERY, TOKENS = 20, 2_000, 30_000, 256


def main(data: Path) -> None:
    """Measure 20 texts, slices of the TinyStories validation text, with the authors' package."""
    content = (data / "texts/tinystories/tinystories_val_794k.txt").read_text(encoding="utf-8")
    texts = [content[EVERY * index :][:CHARACTERS] for index in range(TEXTS)]
    folder = data / "models/stories260K"
    matrices = measure_embedding_condensation(
        AutoModel.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
        texts=texts,
        repetitions=len(texts),
        max_length=TOKENS,
        plot=False,
        save_path=None,
        show_progress=False,
    ).cossim_by_layer
    means = matrices.mean(axis=(1, 2), dtype=np.float64)
    layers = range(len(means))
    record = {
        "command": f"python {Path(__file__).name} DATA",
        "versions": {
            name: version(name) for name in ("embedding-condensation", "torch", "transformers", "numpy", "scipy")
        },
        "model": "models/stories260K",
        "texts": {
            "file": "texts/tinystories/tinystories_val_794k.txt",
            "count": TEXTS,
            "characters": CHARACTERS,
            "every": EVERY,
            "tokens": TOKENS,
        },
        "mean_cosine": means.tolist(),
        "spearman": float(scipy.stats.spearmanr(layers, means).statistic),
        "kendall": float(scipy.stats.kendalltau(layers, means).statistic),
        "histogram_of_mean": [np.histogram(matrix, 128, (-1, 1))[0].tolist() for matrix in matrices],
    }
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in record.items())
    Path(__file__).with_name("embedding_condensation.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
