"""Farebox: mobile-money payments become bus tickets, exactly once each."""
