"""A catalogue of Sierra Leone routes and a generator of a dirty morning rush: the input of `farebox demo`."""
