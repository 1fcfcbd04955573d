"""Two sensors' ticks, the nightly run and a person's `tem-pipeline process`, each in a process, at once.

Run as ``python -m tem_pipeline_tests.end_to_end.at_once SESSION_DIR``: exit 0 when all four ended well.
"""

import multiprocessing
import sys
from collections.abc import Callable

import dagster as dg

from tem_pipeline import cli
from tem_pipeline.installation import installation_of
from tem_pipeline.orchestration.build import build_definitions
from tem_pipeline.orchestration.launch import open_instance
from tem_pipeline.orchestration.partitions import SESSIONS
from tem_pipeline.orchestration.resources import Platform, platform_of
from tem_pipeline.orchestration.session_life.schedules import build_nightly_schedule
from tem_pipeline.orchestration.session_life.sensors import build_arrival_sensor
from tem_pipeline.settings import load_settings


def own_platform() -> Platform:
    return platform_of(installation_of(load_settings()))


def tick(instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    """Let the sensor look at incoming/."""
    sensor = build_arrival_sensor(load_settings())
    result = sensor(dg.build_sensor_context(instance=instance), platform=own_platform())
    assert isinstance(result, dg.SensorResult), result
    return list(result.run_requests or [])


def night(instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    """Let the schedule look."""
    schedule = build_nightly_schedule(load_settings())
    result = schedule(dg.build_schedule_context(instance=instance), platform=own_platform())
    assert isinstance(result, list), result
    return result


def ask_and_run(ask: Callable[[dg.DagsterInstance], list[dg.RunRequest]], everybody) -> None:
    """Ask what is to be run, wait until everybody has, and run it."""
    installation = installation_of(load_settings())
    with open_instance(installation) as instance:
        (request,) = ask(instance)
        everybody.wait()
        key = str(request.partition_key)
        instance.add_dynamic_partitions(str(SESSIONS.name), [key])
        build_definitions(installation).resolve_job_def(str(request.job_name)).execute_in_process(
            instance=instance, partition_key=key, tags=dict(request.tags)
        )


def process(folder: str, everybody) -> None:
    """Do what a person does."""
    sys.argv = ["tem-pipeline", "process", folder]
    everybody.wait()
    cli.main()


def main() -> None:
    """Start the four, and wait for them."""
    # What was imported here needn't be imported by each: they start together.
    start = multiprocessing.get_context("fork")
    everybody = start.Barrier(4, timeout=120)
    with open_instance(installation_of(load_settings())):
        pass  # its databases are made once
    processes = [
        *(start.Process(target=ask_and_run, args=(ask, everybody)) for ask in (tick, tick, night)),
        start.Process(target=process, args=(sys.argv[1], everybody)),
    ]
    for one in processes:
        one.start()
    for one in processes:
        one.join()
    sys.exit(any(one.exitcode for one in processes))


if __name__ == "__main__":
    main()
