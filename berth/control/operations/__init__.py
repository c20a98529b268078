"""Operations requested by people and programs.

server     control.sock             store     the operations, and what ends them
denials    what cannot be done      event_ring     the last events
commands   `berth load ...`: the client's side
planning, shadow_planning     what a migration or a shadow would be
"""
