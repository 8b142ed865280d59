class Job:
    payload: bytes | None
