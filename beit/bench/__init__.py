"""The same work by this package and by others, timed in turn. Peers run in processes of their own."""
