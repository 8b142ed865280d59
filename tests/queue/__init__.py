"""The queue: concurrency, crashes, fairness, waking up, the worker."""
