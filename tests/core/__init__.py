"""The SQL core: its meaning, its behaviour under concurrency, its rights and its plans."""
