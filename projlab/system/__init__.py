"""The equations A x = b as given, and what can be known of them."""
