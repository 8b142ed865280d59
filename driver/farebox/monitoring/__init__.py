"""What runs beside the selling: upkeep, metrics, rules for alerts, the dashboard."""
