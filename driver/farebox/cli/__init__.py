"""The `farebox` command: what people and scripts type. Nothing here decides anything about tickets."""
