"""Simulated recordings: a moving body, what its sensors read and what its camera sees, from one and the same motion."""
