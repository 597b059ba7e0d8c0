"""Labels for the error of random selection: on curves that are written down here."""

import numpy as np
import pytest

from surefield.selection.label_share import (
    LabelShare,
    label_share,
    labels_to_reach,
    most_gained,
    saving_sentence,
)


def test_labels_to_reach() -> None:
    labels, error = np.array([10, 20, 30]), np.array([0.3, 0.1, 0.05])
    assert labels_to_reach(labels, error, 0.2) == pytest.approx(15)
    assert labels_to_reach(labels, error, 0.01) == float("inf")
    assert labels_to_reach(labels, error, 0.4) == 10


def test_shares_and_their_intervals() -> None:
    """Three seeds need 60, 80 and 100 % alone; the interval spans what draws of them need."""
    labels = np.tile([10.0, 20.0, 30.0, 40.0, 50.0], (3, 1))
    random = np.tile([1.0, 0.9, 0.8, 0.7, 0.5], (3, 1))
    method = np.ones((3, 5))
    for seed, first in enumerate((2, 3, 4)):
        method[seed, first:] = 0.5
    share = label_share(labels, method, labels, random)
    assert share.per_seed == pytest.approx((0.6, 0.8, 1.0))
    assert share.fraction == pytest.approx(1.0)  # the mean curve is at 0.5 when the last seed is
    assert share.interval == pytest.approx((0.6, 1.0))
    assert label_share(labels[:2], method[:2], labels[:2], random[:2]).interval is None
    never = label_share(labels, np.ones((3, 5)), labels, random)
    assert (never.fraction, never.per_seed, never.interval) == (None, (None,) * 3, (None, None))
    assert label_share(labels, method, labels, random) == share
    # Where the error of random selection does not fall, having its final one early is no saving.
    flat = label_share(labels, np.ones((3, 5)), labels, np.ones((3, 5)))
    assert (flat.fraction, flat.of_random) == (pytest.approx(0.2), pytest.approx(0.2))
    assert saving_sentence("lcmd", {"mae": flat}) == (
        "lcmd shows no saving over random selection: for its final force MAE it needs 20 % of the labels and "
        "random selection itself 20 %, and no other error shows more (mean curves of 3 repetitions)."
    )
    assert "50 % of its labels, where random selection itself needs 80 % of them (one rep" in saving_sentence(
        "lcmd", {"mae": LabelShare(0.5, (0.5,), of_random=0.8)}
    )


def test_sentences_are_honest() -> None:
    seeds = (0.4, 0.6)
    half = LabelShare(0.5, seeds)
    assert saving_sentence("lcmd", {"mae": half}) == (
        "lcmd reaches the final force MAE of random selection with 50 % of its labels (mean curves of 2 "
        "repetitions)."
    )
    shares = {"mae": LabelShare(None, (None, 0.9)), "rmse": LabelShare(0.8, (None, 0.7)), "worst": half}
    assert most_gained(shares) == "worst"
    assert saving_sentence("lcmd", shares) == (
        "lcmd reaches the final RMSE of the worst structure (force) of random selection with 50 % of its "
        "labels (mean curves of 2 repetitions); the final force MAE it did not reach."
    )
    del shares["worst"]
    assert "1 of 2 alone did not reach it" in saving_sentence("lcmd", shares)
    none = {"mae": LabelShare(1.2, (1.2,)), "rmse": LabelShare(1.0, (1.0,))}
    assert saving_sentence("lcmd", none) == (
        "lcmd shows no saving over random selection: for its final force RMSE it needs 100 % of the labels, "
        "for the force MAE it needs 120 % (one repetition)."
    )
    never = {"mae": LabelShare(None, (None,)), "rmse": LabelShare(None, (None,))}
    assert saving_sentence("lcmd", never) == (
        "lcmd did not reach the final force MAE or force RMSE of random selection (one repetition)."
    )
