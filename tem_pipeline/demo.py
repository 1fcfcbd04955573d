"""The main job on simulated micrographs: trains the four losses, processes a session, compares with truth.

Works below its own roots, DATA_ROOT/demo and MODELS_ROOT/demo, and never touches a laboratory's.
"""

import os
import shutil
import sys
import time
from pathlib import Path

import pandas as pd

from tem_pipeline.settings import load_settings
from tem_pipeline.storage import Layout, layout_of, read_table

SESSION = "demo_session"
ANNOTATED_SET = "simulated_core_shell"
ANNOTATED_IMAGES = 20
IMAGES_PER_FORMAT = 2
FILE_FORMATS = ("tif", "mrc", "emd", "hspy")


def run_demo() -> None:
    """Simulate, train, process, and print what came out."""
    started = time.monotonic()
    layout = _enter_demo()
    truth = _simulate(layout)
    # Imported now, when the settings name the demo's roots.
    from tem_pipeline.orchestration.session_run import process_session
    from tem_pipeline.orchestration.training_run import train_sets

    _say(f"2/3 training four losses on {layout.annotated / ANNOTATED_SET} (about five minutes)")
    print(train_sets([ANNOTATED_SET], profile="quick"))
    _say(f"3/3 processing the session {layout.incoming / SESSION}")
    print(process_session(Path(str(layout.incoming / SESSION))))
    print(_compare(layout, truth))
    print(
        f"\nTables:   {layout.lake}\nPictures: {layout.reports}\nMLflow:   {layout.mlflow}\n"
        f"Look at them in Dagster and MLflow: make dev DEMO=1   ({time.monotonic() - started:.0f} s)"
    )


def _say(step: str) -> None:
    print(step, file=sys.stderr, flush=True)


def _enter_demo() -> Layout:
    """Turn this process to the demo's own roots, emptied; the laboratory's stay as they are."""
    home = layout_of(load_settings())
    data_root, models_root = Path(str(home.data_root)) / "demo", Path(str(home.models_root)) / "demo"
    dagster_home = Path(os.environ.get("DAGSTER_HOME") or Path(__file__).resolve().parents[1] / ".dagster")
    dagster_home = dagster_home if dagster_home.name == "demo" else dagster_home / "demo"
    for root in (data_root, models_root, dagster_home):
        shutil.rmtree(root, ignore_errors=True)
    os.environ |= {
        "TEM_DATA_ROOT": str(data_root),
        "TEM_MODELS_ROOT": str(models_root),
        "DAGSTER_HOME": str(dagster_home),
    }
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    load_settings.cache_clear()
    return layout_of(load_settings())


def _simulate(layout: Layout) -> pd.DataFrame:
    """Write an annotated set, and a session in four file formats with a broken file among them.

    Returns
    -------
    DataFrame
        The session's true particles, with the name of their image.
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
    """Hold the session's particle table against the truth, over whole particles."""
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
