"""What ChIMES sums over: clusters of atoms, Chebyshev polynomials of their pairs, sets of powers."""
