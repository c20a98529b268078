"""Looks at a LoRA adapter of the hub before it is downloaded: in the cache on this machine, then on the hub."""

from berth.boot import cache, hub
from berth.boot.adapters import from_folder, read
from berth.boot.hub import Hub, OutOfReachError
from berth.boot.hub_model import HubModel
from berth.boot.model_files import ADAPTER_CONFIG
from berth.boot.model_spec import AdapterSpec
from berth.plan import Adapter


def look_up(spec: AdapterSpec, where: Hub) -> tuple[Adapter, int | None]:
    """What is known of it, and the bytes that its download would add (None: not known). Nothing is stored. ConfigError
    for one that cannot be served as it is.
    """
    model = HubModel(source=spec.source)
    hub.require_id(spec.source)
    stock = cache.stock(where.cache_dir, model)
    if where.offline:
        return from_folder(spec, hub.require_whole(model, where)), 0
    if stock.whole and stock.folder is not None:
        return from_folder(spec, stock.folder), 0
    try:
        listing = hub.listing(model, where)
        document = hub.fetch(model, ADAPTER_CONFIG, where) if ADAPTER_CONFIG in listing.sizes else b""
        return read(spec, listing.sizes, document), hub.missing_bytes(model, listing, stock.repository)
    except OutOfReachError:
        return Adapter(name=spec.name, source=spec.source), None
