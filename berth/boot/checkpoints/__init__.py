"""The files of models.

metadata, lora         facts from config.json and adapter_config.json
files, cache           the files that engines need, and which of them are cached
local, hub, sources    look up models and adapters      download, resumable, progress_bar   download them
fetch, export, import_ the commands `berth fetch`, `berth export` and `berth import` (archive: the format of the tar)
"""
