"""A local dask cluster, on any free port, so that several can run at once."""

from contextlib import contextmanager


@contextmanager
def dask_executor():
    """Start two workers; the port of the pages about them is any that is free."""
    from dask import config  # noqa: PLC0415 slow
    from distributed import Client, LocalCluster  # noqa: PLC0415 slow

    with (
        config.set({"distributed.worker.multiprocessing-method": "forkserver"}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client.get_executor()
