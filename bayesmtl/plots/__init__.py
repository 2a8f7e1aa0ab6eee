"""Plots: labelled arrays in, matplotlib Axes out; nothing is computed here."""
