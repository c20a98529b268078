"""LoRA adapters that are loaded and unloaded by calls. vLLM answers in text, and has the calls only if it was started
for them; SGLang answers in JSON, with what is loaded then.
"""

from http import HTTPStatus

import orjson

from berth.plan import DialectName
from berth.sim import body_validation
from berth.sim.dialect import Response, Route
from berth.sim.options import Options


def respond(options: Options, route: Route, body: bytes) -> Response:
    """Changes the adapters of `options`."""
    given = body_validation.parse_object(body)
    name, loads = str(given.get("lora_name") or ""), route is Route.LOAD_ADAPTER
    error, status = "", HTTPStatus.BAD_REQUEST
    if not name or (loads and not given.get("lora_path")):
        error = "Both 'lora_name' and 'lora_path' must be provided."
    elif loads and name in options.adapters:
        error = (
            f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set "
            "'load_inplace' to True."
        )
    elif not loads and name not in options.adapters:
        error, status = f"The lora adapter '{name}' cannot be found.", HTTPStatus.NOT_FOUND
    elif loads:
        options.adapters.append(name)
    else:
        options.adapters.remove(name)
    if options.dialect is DialectName.SGLANG:
        loaded = dict.fromkeys(options.adapters, "")
        page = {"rid": None, "success": not error, "error_message": error, "loaded_adapters": loaded}
        return Response(status=HTTPStatus.BAD_REQUEST if error else HTTPStatus.OK, body=orjson.dumps(page))
    if error:
        kind = "NotFoundError" if status is HTTPStatus.NOT_FOUND else "InvalidUserInput"
        shown = {"message": error, "type": kind, "param": None, "code": status}
        return Response(status=status, body=orjson.dumps({"error": shown}))
    text = f"Success: LoRA adapter '{name}' {'added' if loads else 'removed'} successfully."
    return Response(body=text.encode(), content_type="text/plain; charset=utf-8")
