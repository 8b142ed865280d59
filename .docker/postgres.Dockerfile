# PostgreSQL 18 with pgTAP and pg_prove, both from the same repository as the server itself.
FROM postgres:18.6-trixie

RUN apt-get update \
  && apt-get install -y --no-install-recommends postgresql-18-pgtap libtap-parser-sourcehandler-pgtap-perl \
  && rm -rf /var/lib/apt/lists/*
