"""Linear expressions over parameters, and the equations made of them."""
