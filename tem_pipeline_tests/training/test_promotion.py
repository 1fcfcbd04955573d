import numpy as np
import pytest

from tem_pipeline.training.promotion import compare_with_champion, paired_interval
from tem_pipeline_tests.training.test_evaluation import image, model

IMAGES = [image(name, seed) for seed, name in enumerate("abcd")]


@pytest.mark.parametrize(("candidate", "champion", "promoted"), [(0.0, 0.3, True), (0.3, 0.0, False)])
def test_only_a_better_candidate_is_promoted(candidate: float, champion: float, promoted: bool):
    verdict = compare_with_champion(model(candidate), model(champion), IMAGES)
    assert verdict.promote is promoted
    assert (verdict.images, verdict.sources) == (4, 4)
    assert verdict.low is not None
    assert "on 4 test images of 4 source micrographs that are new to both" in verdict.reason
    assert "95 % interval" in verdict.reason


def test_an_equal_candidate_is_not_promoted():
    assert not compare_with_champion(model(), model(), IMAGES).promote


def test_a_better_mean_that_may_be_chance_promotes_nothing():
    # Two images favour each model: the better mean is no evidence.
    for one in (shifted := [image(name, seed) for seed, name in enumerate("cd", start=2)]):
        one.class_map[:] = one.image < -0.70
    verdict = compare_with_champion(model(0.3), model(), [*IMAGES[:2], *shifted])
    assert verdict.dice_difference is not None
    assert verdict.low is not None
    assert verdict.low < 0 < verdict.dice_difference
    assert not verdict.promote
    assert "not surely better" in verdict.reason


@pytest.mark.parametrize("seen", ["training_images", "validation_images"])
def test_images_that_either_model_has_seen_do_not_decide(seen: str):
    pixels = tuple(f"pixels {name}" for name in "ab")
    verdict = compare_with_champion(model(0.3, **{seen: pixels}), model(), IMAGES)
    assert verdict.images == 2
    all_of_them = tuple(f"pixels {name}" for name in "abcd")
    verdict = compare_with_champion(model(), model(0.3, **{seen: all_of_them}), IMAGES)
    assert not verdict.promote
    assert "can't be compared" in verdict.reason


def test_a_single_source_promotes_nothing():
    verdict = compare_with_champion(model(), model(0.3), IMAGES[:1])
    assert not verdict.promote
    assert verdict.low is None
    assert "one source gives no interval" in verdict.reason


@pytest.mark.parametrize("sources", [2, 3, 6, 20])
def test_one_of_forty_comparisons_of_equal_models_promotes(sources: int):
    rng = np.random.default_rng(sources)
    lows = np.array([paired_interval(rng.normal(size=sources))[1] for _ in range(2000)], dtype=float)
    assert np.mean(lows > 0) == pytest.approx(0.025, abs=0.01)
