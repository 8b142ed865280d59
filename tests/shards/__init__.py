"""Companies over many databases: a router with PL/Proxy and its shards, on real servers."""
