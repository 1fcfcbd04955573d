"""Trains from the command line, with the same job as in Dagster's UI."""

from collections.abc import Sequence

import pandas as pd

from tem_pipeline.installation import Installation
from tem_pipeline.model_training import model_key
from tem_pipeline.orchestration.launch import run_job
from tem_pipeline.storage import Layout, read_table
from tem_pipeline.tables import LOSSES
from tem_pipeline.text import counted
from tem_pipeline.training.metrics import SCORES


def train_sets(
    installation: Installation,
    sets: Sequence[str],
    profile: str = "standard",
    losses: Sequence[str] = (),
    start_from: str = "",
    split_seed: int = 0,
    seed: int = 0,
) -> str:
    """Train one model per loss; the best becomes champion if it beats the current one.

    Parameters
    ----------
    installation : Installation
    sets : sequence of str
        Absolute folders, or names below annotated/.
    losses : sequence of str
        Names of losses; empty: all.

    Returns
    -------
    str
        The comparison on the test images and the champion.
    """
    chosen = [model_key(loss) for loss in LOSSES if not losses or loss in losses]
    run_job(
        installation,
        "train_models",
        assets=[
            "training/annotated_images",
            "training/augmented_dataset",
            *chosen,
            "training/loss_comparison",
            "training/champion_model",
        ],
        resources={
            "training_plan": {
                "sets": list(sets),
                "profile": profile,
                "split_seed": split_seed,
                "seed": seed,
                "start_from": start_from,
            }
        },
        named=[*sets, start_from],
    )
    return summarise_training(installation.layout)


def summarise_training(layout: Layout) -> str:
    """Show the comparison of the losses and the champion as text."""
    comparison = read_table(layout.table("training/loss_comparison"))
    champion = read_table(layout.table("training/champion_model")).iloc[0]
    images, sources = comparison["images"].iloc[0], comparison["sources"].iloc[0]
    tested = f"{counted(images, 'test image')} of {counted(sources, 'source micrograph')}"
    lines = [
        f"on {tested} (95 % intervals resample the sources)",
        f"{'loss':24}" + "".join(f"{name:>10}" for name in SCORES) + f"{'Dice interval':>20}",
    ]
    for row in comparison.to_dict("records"):
        values = "".join(f"{row[name]:>10.4f}" for name in SCORES)
        # A single test source has no interval.
        interval = "none" if pd.isna(row["dice_low"]) else f"{row['dice_low']:.4f} … {row['dice_high']:.4f}"
        lines.append(f"{row['loss']:24}{values}{interval:>20}")
    lines += [
        f"champion: models:/{champion['model_name']}/{champion['model_version']} ({champion['loss']})",
        f"          {'promoted' if champion['promoted'] else 'kept'}: {champion['reason']}",
        f"figure:   {layout.reports / 'loss_comparison' / comparison['figure'].iloc[0]}",
    ]
    return "\n".join(lines)
