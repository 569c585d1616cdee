"""Reads a system A x = b from a file, in the formats that people keep one in.

Nothing in a file is ever executed: numpy reads without pickles, torch with ``weights_only``,
safetensors holds plain bytes, text and MATLAB's files are read here. What cannot be read to the
last digit is refused, in one sentence that names the file, the place in it, what stands there and
what is wanted; what is left out is said in the notes.

`formats/` has one module a format and their registry, `load` puts together what they find.
"""
