"""Facts about public models that their files do not say: parsers, quantised variants, draft heads, remote code.

schema   the types, and what a catalogue may contain
entry    what it says about one model
lookup   the catalogue of the package, with the operator's own file

`models.json` is data: each fact has a source with an address and a date. `make catalogue` writes it. Nothing is
downloaded at run time.
"""
