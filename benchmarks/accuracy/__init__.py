"""What benchmarks/accuracy_tables.py is made of."""
