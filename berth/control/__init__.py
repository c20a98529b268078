"""control runs for ever and alone starts and stops engines. When it dies, routers continue without it.

controller          observe, decide, act, publish
records, lifecycle, standby, restart_policy      what is known and what is decided, pure
probes, engine_logs, log_tail, load_progress     observing
diagnosis           why an engine exited         cleanup   orphans and GPU memory
supervisord_client  supervisord's XML-RPC        sleep     engines' sleep mode
publish, recovery   State, and a restart of control itself
events, status      log events, `berth status` and `berth reload`
"""
