"""Freight: two agents on real formats, the systems they talk to, and the proof that all was done once."""
