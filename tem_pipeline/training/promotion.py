"""Decides whether a candidate is better than the champion, from test images that are new to both models."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tem_pipeline.annotation.datasets import AnnotatedImage
from tem_pipeline.segmentation.models import SegmentationModel
from tem_pipeline.training.evaluation import COUNTS, evaluate_model, unseen
from tem_pipeline.training.metrics import pooled_scores


@dataclass(frozen=True)
class Verdict:
    """How a comparison of a candidate with the champion ended.

    dice_difference : mean over source micrographs of the candidate's Dice minus the champion's
    low, high : 95 % interval of that mean; None with fewer than two sources
    """

    promote: bool
    reason: str
    images: int = 0
    sources: int = 0
    dice_difference: float | None = None
    low: float | None = None
    high: float | None = None


def compare_with_champion(
    candidate: SegmentationModel, champion: SegmentationModel, images: Sequence[AnnotatedImage]
) -> Verdict:
    """Promote a candidate only if it is surely better than the champion.

    Both models predict the images that neither was trained on and that chose neither's epoch, loss or
    threshold. The candidate is promoted if the lower end of `paired_interval` is over 0.

    Parameters
    ----------
    candidate, champion : SegmentationModel
    images : sequence of AnnotatedImage
        Test images. Those that either model has seen are left out.
    """
    new = unseen(images, candidate.card, champion.card, validation_too=True)
    if not new:
        return Verdict(False, "no test image is new to both models, so they can't be compared")
    counts = [
        evaluate_model(model, new).groupby("group")[COUNTS].sum().to_numpy()
        for model in (candidate, champion)
    ]
    pooled = [float(pooled_scores(table.sum(axis=0))["dice"]) for table in counts]
    differences = pooled_scores(counts[0])["dice"] - pooled_scores(counts[1])["dice"]
    mean, low, high = paired_interval(differences)
    sources = len(differences)
    compared = (
        f"Dice {pooled[0]:.4f} against the champion's {pooled[1]:.4f} on {len(new)} test images"
        f" of {sources} source micrographs that are new to both"
    )
    if low is None or high is None:
        promote, sure = False, "one source gives no interval, so the champion stays: annotate more"
    else:
        promote = low > 0
        verdict = "the candidate is better" if promote else "not surely better, so the champion stays"
        sure = f"mean difference {mean:+.4f}, 95 % interval {low:+.4f} … {high:+.4f}: {verdict}"
    return Verdict(promote, f"{compared}; {sure}", len(new), sources, mean, low, high)


def paired_interval(differences: np.ndarray, level: float = 0.95) -> tuple[float, float | None, float | None]:
    """Give the mean of paired differences and its interval by Student's t distribution.

    A bootstrap interval is far too narrow for the few sources of a usual test part. With three sources it is
    over 0 whenever all three differences are, which happens to one of eight pairs of equal models. Student's
    interval is over 0 for about one of forty, with any number of sources.

    Parameters
    ----------
    differences : ndarray, (sources,)
        One per source micrograph, because images of one micrograph are not independent.
    level : float
        Share of intervals that cover the true mean, if the differences are normal.

    Returns
    -------
    mean, low, high : float
        Low and high are None for a single source.
    """
    mean = float(np.mean(differences))
    if len(differences) < 2:
        return mean, None, None
    # scipy.stats takes a second to load, and only a promotion needs it.
    from scipy.stats import t

    error = float(np.std(differences, ddof=1) / np.sqrt(len(differences)))
    half = float(t.ppf((1 + level) / 2, len(differences) - 1)) * error
    return mean, mean - half, mean + half
