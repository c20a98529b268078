"""The files of models.

metadata, lora         what config.json and adapter_config.json say    hub, local, sources   where they are read from
cache, files           what is cached, and which files a model needs   download, resumable   how they are downloaded
fetch, fetch_hub       `berth fetch`
archive, export, import_   `berth export`, `berth import`
"""
