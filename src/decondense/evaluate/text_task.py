"""A scorer and held-out documents in, their perplexity as a task of `results.json` out."""

from __future__ import annotations

from typing import Any

from decondense.evaluate import perplexity
from decondense.evaluate.held_out_documents import HeldOutDocuments
from decondense.evaluate.scoring import Scorer
from decondense.progress import progress_bar

# Raised where what a perplexity means changes: results of another are computed anew.
VERSION = 1


def run_texts(
    scorer: Scorer, texts: HeldOutDocuments, limit: int | None, context: int | None, stride: int | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Perplexity and bits per byte over a sliding window, and by document (names ending in /document), of the first `limit` documents or all.

    Returns:
        the entry for `results.json`, and a sample for each document.

    Raises:
        UserError: the window does not fit the model.
    """
    documents = [text for text in texts.documents if text.strip()][:limit]
    with progress_bar(texts.name, " tokens", shown=scorer.show_progress, unit_scale=True, leave=False) as bar:
        given = (scorer.model, scorer.tokenizer, documents, context, stride, scorer.find_batch_size, bar.add)
        sliding = perplexity.by_window(*given)
        # One document is that stream itself.
        single = perplexity.by_document(*given) if len(documents) > 1 else None
    metrics = {**sliding.metrics(), **(single.metrics("/document") if single else {})}
    entry = {
        "version": VERSION,
        "samples": len(documents),
        "shots": 0,
        "metrics": metrics,
        "higher_is_better": dict.fromkeys(metrics, False),
        "context": sliding.context,
        "stride": sliding.stride,
        "tokens": sum(sliding.tokens),
        "bytes": sliding.bytes,
        "files": [one.rsplit("/", 1)[-1] for one in texts.origin],
    }
    parts = zip(single.nats, single.tokens, strict=True) if single else [(sum(sliding.nats), sum(sliding.tokens))]
    return entry, [{"doc_id": number, "nats": nats, "tokens": tokens} for number, (nats, tokens) in enumerate(parts)]
