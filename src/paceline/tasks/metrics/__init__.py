"""Metrics as pure functions of a reply and of what is right."""
