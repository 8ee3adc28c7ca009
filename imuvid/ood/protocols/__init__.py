"""Protocols: who is trained on, who is tested, and how what was learned is applied."""
