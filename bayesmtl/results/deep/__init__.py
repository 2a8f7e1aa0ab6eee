"""Fits of networks: trunks that features come from, and a fit over weights for the heads of each."""
