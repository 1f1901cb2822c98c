"""Scores of made-up captions: samples a second of one core, by score.

python -m tests.benchmarks.scores --samples 200000
"""

import argparse
import time

import numpy as np
import polars as pl

from mindvl_data.steps.scores import language, minhash, repetition, text

WORDS = "the a dog cat on red beach with two people near old house in of and photo from sky water".split()  # noqa: SIM905
SCORES = {
    "words": text.words,
    "alnum_share": text.alnum_share,
    "special_share": text.special_share,
    "char_repetition": repetition.char_repetition,
    "word_repetition": repetition.word_repetition,
    "word_run": repetition.word_run,
    "language": language.language,
    "text_minhash": minhash.text_minhash,
}
BATCH = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=50_000)
    count = parser.parse_args().samples
    rng = np.random.default_rng(0)
    captions = pl.Series([" ".join(rng.choice(WORDS, rng.integers(5, 40))) for _ in range(count)])
    batches = [captions.slice(start, BATCH) for start in range(0, count, BATCH)]
    print(
        f"{count:,} captions of {captions.str.len_chars().mean():.0f} characters\n{'score':>16} {'samples / CPU s':>16}"
    )
    total = 0.0
    for name, score in SCORES.items():
        score(batches[0].head(64))
        start = time.process_time()
        for batch in batches:
            score(batch)
        spent = time.process_time() - start
        total += spent
        print(f"{name:>16} {count / spent:>16,.0f}")
    print(f"{'all of them':>16} {count / total:>16,.0f}")


if __name__ == "__main__":
    main()
