"""Formats of ocean freight: DCSA bookings and the UN/EDIFACT messages IFTMIN and IFTSTA (directory D.99B).

Reading never raises on bad content: it returns what could be read and a list of `Fault`, each with a
machine-readable reason. Pydifact splits the text into segments; what a directory would check is checked here.
"""
