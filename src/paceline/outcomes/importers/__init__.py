"""Profiles made elsewhere, brought into an outcomes directory: one module per format, and what all of them share."""
