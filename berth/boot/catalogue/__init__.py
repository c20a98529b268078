"""Facts about public models that their files do not say: parsers, quantised variants, draft heads, remote code.

schema   the types, and what a catalogue may contain
lookup   the catalogue of the package, with the operator's own file, and what it says about one model

`models.json` is data: each fact has a source with an address and a date. `make catalogue` writes it. Nothing is
downloaded at run time.
"""
