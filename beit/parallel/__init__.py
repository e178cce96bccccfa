"""Several processes: collectives, launching, sharding, the watchdog, signals."""
