"""A process that runs one batch with a scripted model, to be killed: `python saidata_batch_child.py STORE FOLDER NAMES`."""

from __future__ import annotations

import sys
from pathlib import Path

from saidata.batch.jobs import Jobs, Settings
from saidata.batch.names import Wanted
from saidata.batch.run import Runner
from saidata.batch.store import Store
from saidata.generate.make import Maker
from saidata_making import Scripted, webthing


def main(store_file: Path, folder: Path, count: int) -> None:
    """Start the job, or go on with it, and print each name as it ends."""
    names = [Wanted(f"thing{number}") for number in range(count)]
    with Store(store_file) as store:
        job, _ = Jobs(store).start(names, "list", folder, Settings(model="scripted"))
        model = Scripted(pause_s=0.002)
        runner = Runner(
            store,
            lambda answers: Maker(model, cache=answers),
            lambda name: webthing(name=name),
            lambda progress, name, state: print(name, flush=True),
        )
        print("begins", flush=True)
        runner.run(job)
    print("ends", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
