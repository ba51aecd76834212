#!/usr/bin/env bash
# Does a weight that holds a mean cosine match the best constant of a sweep? On the embedded corpus, and on novels where BOOKS names their folder.
#   SEEDS=5 BOOKS=FOLDER OUT=runs/weights recipes/studies/weights.sh [more options of decondense train, which win]
# The same command goes on where it was stopped. Ends with a file of results for each corpus: rows, means with t intervals, paired differences.
set -euo pipefail

seeds="${SEEDS:-5}"
out="${OUT:-runs/weights}"
results="${RESULTS:-results}"
constants=(dispersion=0.03 dispersion=0.1 dispersion=0.3 dispersion=1 dispersion=3)
schedules=(dispersion=0.3:warmup:0.2 dispersion=0.3:decay dispersion=1:decay)
controllers=(dispersion=adaptive:0.02 dispersion=adaptive:0.05 dispersion=adaptive:0.1 dispersion=adaptive:0.2 dispersion=gradient_share:0.1)

study() { # NAME, then options of the corpus
    local name="$1"
    shift
    decondense train "$@" --seeds "$seeds" --out "$out/$name" \
        --arms cross_entropy "${constants[@]}" "${schedules[@]}" "${controllers[@]}"
    python -m decondense.studies.collected --study "weights-$name" --out "$results/weights-$name.json" "$out/$name"
    # The same constant and target with the loss on the layers that are condensed; cross entropy once more, so that differences are paired.
    decondense train "$@" --seeds "$seeds" --out "$out/$name-condensed" --layers condensed \
        --arms cross_entropy dispersion=0.3 dispersion=adaptive:0.05
    python -m decondense.studies.collected --study "weights-$name-condensed" --out "$results/weights-$name-condensed.json" "$out/$name-condensed"
}

study embedded --steps 300 --device cpu "$@"
if [ -n "${BOOKS:-}" ]; then
    study books --texts "$BOOKS" --join file --tokens "${TOKENS:-1_000_000}" --evaluate-every 200 --device cpu "$@"
fi
