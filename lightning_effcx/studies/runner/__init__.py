"""Runs the trainings of a study, anywhere, and keeps what came of them."""
