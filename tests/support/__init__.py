"""What the tests stand on: real servers that clean up after themselves, and cloned databases."""
