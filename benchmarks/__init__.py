"""Figures as ratios measured in one run: `./run bench [NAME...]`."""
