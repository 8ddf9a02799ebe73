"""How it is measured: loading, anatomy, sweeps, windows, metrics, intervals and samples."""
