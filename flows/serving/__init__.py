"""Where and how runs are carried out: Prefect's server and worker, Dask, signs of life, signals."""
