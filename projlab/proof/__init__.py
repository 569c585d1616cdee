"""What is proven of an answer, whoever computed it."""
