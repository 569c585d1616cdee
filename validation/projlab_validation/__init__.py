"""The validation suite: problems, oracles, records and the judge.

Data goes one way: problem → variant → figures against reference and oracles → record → verdict →
report.
"""
