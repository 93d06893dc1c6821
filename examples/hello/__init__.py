"""The smallest agent there is."""
