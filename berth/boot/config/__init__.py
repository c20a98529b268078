"""Environment -> Settings and ModelSpec. Only `settings` reads the environment, and only from a mapping passed in.

variables, parsers     the table of variables and how values are parsed      reference   their documentation
models                 BERTH_MODELS: model_shorthand, or YAML (yaml_text, model_yaml, engine_yaml) -> model_spec
api_keys               BERTH_API_KEYS: a list, or YAML
model_rules            rules between fields and models                       checkout    defaults in a git checkout
"""
