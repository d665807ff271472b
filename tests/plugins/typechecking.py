"""The run-time type check that the jaxtyping hook applies to every function of the package in tests."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as type checkers read it
