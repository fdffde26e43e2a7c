"""Vademecum: a small medical question-answering model on your own hardware, and proof of what it is worth."""

__version__ = "0.1.0"
