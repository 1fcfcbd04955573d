"""The champion and the other models that a reference can name."""

import shutil
from pathlib import Path

from upath import UPath

from tem_pipeline.errors import UserError
from tem_pipeline.segmentation.models import ModelCard, holds_model, read_card, write_card
from tem_pipeline.storage import AnyPath, Layout, atomic_path
from tem_pipeline.tracking.store import MODEL_FOLDER_ARTIFACT, REGISTERED_MODEL, ModelStore, open_store

CHAMPION = "champion"
NO_CHAMPION_YET = "there is no champion yet: the pretrained model is used; train one on your own images"


def champion_version(store: ModelStore) -> str | None:
    """Give the version that the alias `champion` names, or None if there is no champion yet.

    Raises
    ------
    UserError
        When the store can't be reached.
    """
    if store.database and not store.database.exists():
        return None  # Reading must not create a store.
    with open_store(store) as client:
        from mlflow.exceptions import MlflowException

        try:
            return str(client.get_model_version_by_alias(REGISTERED_MODEL, CHAMPION).version)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise


def fetch_version(store: ModelStore, version: str) -> Path:
    """Give the model folder of a registered version; a server's is downloaded.

    Raises
    ------
    UserError
        When there is no such version.
    """
    with open_store(store) as client:
        import mlflow

        registered = client.get_model_version(REGISTERED_MODEL, version)
        folder = mlflow.artifacts.download_artifacts(  # type: ignore[attr-defined]
            run_id=registered.run_id, artifact_path=MODEL_FOLDER_ARTIFACT, tracking_uri=store.uri
        )
    return Path(folder)


def promote(store: ModelStore, layout: Layout, version: str) -> ModelCard:
    """Move the alias `champion` to a version and write the champion folder with it.

    The new weights are copied beside the old ones. The card, which names the weights, is replaced last, so
    that a reader finds either the old champion or the new one, complete.

    Parameters
    ----------
    store : ModelStore
    layout : Layout
    version : str
        Version of the registered model.

    Raises
    ------
    UserError
        When the store has no such version or can't be reached, or the folder can't be written.
    """
    source = fetch_version(store, version)
    card = read_card(source)
    _copy_weights(source, layout.champion, card)
    with open_store(store) as client:
        client.set_registered_model_alias(REGISTERED_MODEL, CHAMPION, version)
    write_card(layout.champion, card)
    return card


def _copy_weights(source: Path, target: AnyPath, card: ModelCard) -> None:
    for file in sorted((source / card.weights).iterdir()):
        with atomic_path(target / card.weights / file.name) as part:
            shutil.copyfile(file, part)


def check_champion(store: ModelStore, layout: Layout) -> ModelCard:
    """Make sure that the champion folder holds the version that the alias names.

    The folder is rewritten if it is out of date, because somebody moved the alias in MLflow or a promotion
    was interrupted. If no version has the alias, the folder alone decides.

    Raises
    ------
    UserError
        When there is no champion at all, or the store can't be reached.
    """
    version = champion_version(store)
    if version is None:
        return read_card(layout.champion)
    try:
        card = read_card(layout.champion)
    except UserError:
        card = None
    if card is None or card.version != version:
        return promote(store, layout, version)
    return card


def champion_or_pretrained(store: ModelStore, layout: Layout) -> AnyPath:
    """Give the folder of the model that sessions are processed with.

    This is the champion, checked by `check_champion`. If neither the registry nor the champion folder has
    one, it is the pretrained model.

    Raises
    ------
    UserError
        When there is neither model, or the store can't be reached.
    """
    if (
        not holds_model(layout.champion)
        and champion_version(store) is None
        and holds_model(layout.pretrained)
    ):
        return layout.pretrained
    check_champion(store, layout)
    return layout.champion


def resolve_model(reference: str, store: ModelStore, layout: Layout) -> AnyPath:
    """Give the model folder that a reference names.

    Parameters
    ----------
    reference : str
        `champion`, `pretrained`, `models:/NAME/VERSION`, or a folder. The champion folder is used without
        asking the registry; if it is empty, see `champion_or_pretrained`.

    Raises
    ------
    UserError
        When the reference names no model.
    """
    if reference == "champion":
        return layout.champion if holds_model(layout.champion) else champion_or_pretrained(store, layout)
    if reference == "pretrained":
        return layout.pretrained
    if reference.startswith("models:/"):
        name, _, version = reference.removeprefix("models:/").partition("/")
        if name != REGISTERED_MODEL or not version.isdigit():
            raise UserError(
                f"{reference}: models are named models:/{REGISTERED_MODEL}/VERSION, VERSION a number"
            )
        return fetch_version(store, version)
    return UPath(reference)
