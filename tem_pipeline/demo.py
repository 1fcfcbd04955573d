"""The main job on simulated micrographs: trains the four losses, processes a session, checks the result.

The demo has its own folders, DATA_ROOT/demo and MODELS_ROOT/demo. It never touches the laboratory's.
"""

import os
import shutil
import sys
import time
from pathlib import Path

import pandas as pd

from tem_pipeline.errors import UserError
from tem_pipeline.installation import Installation, installation_of
from tem_pipeline.settings import Settings
from tem_pipeline.storage import Layout, read_table

SESSION = "demo_session"
ANNOTATED_SET = "simulated_core_shell"
ANNOTATED_IMAGES = 20
IMAGES_PER_FORMAT = 2
FILE_FORMATS = ("tif", "mrc", "emd", "hspy")
MARKER = ".made_by_the_demo"
"""The demo removes only folders that have this file."""


def run_demo(settings: Settings) -> None:
    """Simulate, train, process, and print the results.

    Parameters
    ----------
    settings : Settings
        The laboratory's; the demo's folders are below those that it names.
    """
    # Imported here: Dagster takes seconds to load.
    from tem_pipeline.orchestration.session_run import process_session
    from tem_pipeline.orchestration.training_run import train_sets

    started = time.monotonic()
    installation = demo_installation(settings)
    layout = installation.layout
    _start_afresh([Path(str(layout.data_root)), Path(str(layout.models_root)), installation.dagster_home])
    truth = _simulate(layout)
    _say(f"2/3 training four losses on {layout.annotated / ANNOTATED_SET} (about five minutes)")
    print(train_sets(installation, [ANNOTATED_SET], profile="quick"))
    _say(f"3/3 processing the session {layout.incoming / SESSION}")
    print(process_session(installation, Path(str(layout.incoming / SESSION))))
    print(_compare(layout, truth))
    print(
        f"\nTables:   {layout.lake}\nPictures: {layout.reports}\nMLflow:   {layout.mlflow}\n"
        f"Look at them with `tem-pipeline sessions --demo`, or any other command with --demo;\n"
        f"in Dagster and MLflow: make dev DEMO=1   ({time.monotonic() - started:.0f} s)\n"
        f"Report: {layout.report(SESSION).as_uri()}"
    )


def _start_afresh(folders: list[Path]) -> None:
    """Empty the folders of an earlier demo and mark them as the demo's.

    Raises
    ------
    UserError
        When a folder holds something and has no marker; then nothing is removed.
    """
    for folder in folders:
        marked = (folder / MARKER).is_file() and not folder.is_symlink()
        if os.path.lexists(folder) and not marked and not (folder.is_dir() and not any(folder.iterdir())):
            raise UserError(
                f"{folder}: the demo did not make this ({MARKER} is missing), so it does not empty it; "
                "move it away, or set TEM_DATA_ROOT, TEM_MODELS_ROOT and DAGSTER_HOME to other folders"
            )
    for folder in folders:
        try:
            if (folder / MARKER).is_file():
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / MARKER).write_text("The demo removes this folder when it starts again.\n")
        except OSError as error:
            raise UserError(
                f"{error.filename}: can't be emptied ({error.strerror}); remove it by hand"
            ) from error


def _say(step: str) -> None:
    print(step, file=sys.stderr, flush=True)


def demo_installation(settings: Settings) -> Installation:
    """Give the demo's own installation, with the embedded model store."""
    laboratory = installation_of(settings)
    return installation_of(
        settings.model_copy(
            update={
                "data_root": str(laboratory.layout.data_root / "demo"),
                "models_root": str(laboratory.layout.models_root / "demo"),
                "dagster_home": str(laboratory.dagster_home / "demo"),
                "training_profile": "quick",
                "mlflow_tracking_uri": None,
            }
        )
    )


def _simulate(layout: Layout) -> pd.DataFrame:
    """Write an annotated set, and a session in four file formats with one broken file.

    Returns
    -------
    DataFrame
        The session's true particles, with the name of their image file.
    """
    from tem_pipeline.simulation.sessions import simulate_annotated_set, simulate_session

    _say("1/3 simulating micrographs of core–shell catalysts")
    simulate_annotated_set(Path(str(layout.annotated / ANNOTATED_SET)), images=ANNOTATED_IMAGES, seed=41)
    truth = []
    session = Path(str(layout.incoming / SESSION))
    session.mkdir(parents=True)
    for number, file_format in enumerate(FILE_FORMATS):
        part = Path(str(layout.data_root / "simulated" / file_format))
        simulate_session(part, images=IMAGES_PER_FORMAT, seed=140 + number, file_format=file_format)
        for file in sorted((part / "session").glob(f"*.{file_format}")):
            shutil.copyfile(file, session / f"{file_format}_{file.name}")
        shutil.copyfile(part / "session" / "session.yaml", session / "session.yaml")
        particles = pd.read_parquet(part / "truth" / "particles.parquet")
        truth.append(particles.assign(file=f"{file_format}_" + particles["image"] + f".{file_format}"))
    (session / "interrupted_copy.dm3").write_bytes(b"")
    return pd.concat(truth, ignore_index=True)


def _compare(layout: Layout, truth: pd.DataFrame) -> str:
    """Compare the whole particles of the session's table with the true ones."""
    found = read_table(layout.table("particle_table", SESSION))
    found_whole = found[~found["touches_edge"]]
    true_whole = truth[~truth["touches_edge"]]
    rows = [
        ("whole particles", len(found_whole), len(true_whole), "d"),
        (
            "mean equivalent diameter (nm)",
            found_whole["equivalent_diameter_nm"].mean(),
            true_whole["visible_diameter_nm"].mean(),
            ".4f",
        ),
    ]
    lines = ["", f"{'against the truth':32}{'found':>10}{'true':>10}{'off by':>9}"]
    for name, value, true, form in rows:
        lines.append(f"{name:32}{value:>10{form}}{true:>10{form}}{100 * (value / true - 1):>+8.1f}%")
    return "\n".join(lines)
