"""Wire formats: pure translation, without input or output and without a clock."""
