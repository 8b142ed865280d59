# The command `farebox` with the SQL it ships; needs no server and no tools of development.
FROM python:3.13.7-slim-trixie

COPY pyproject.toml README.md LICENSE /src/
COPY driver /src/driver
COPY db /src/db
COPY migrations /src/migrations
RUN pip install --no-cache-dir '/src[metrics]' && useradd --system farebox

USER farebox
ENTRYPOINT ["farebox"]
