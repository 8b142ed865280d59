"""Migrations on real servers: what they make, what they undo, who may run them, what happens if they die."""
