"""What works on this machine, for `beit doctor`: each module returns findings."""
