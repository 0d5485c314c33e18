"""Judges events with Synapse's own authorisation rules: one event a line on stdin, one verdict a line on stdout.

An event is a JSON object:
  pdu     the event as it goes over federation
  state   the events, as PDUs, by which it is judged
  listed  those that it lists as auth events, as PDUs

A verdict is {"error": null} or {"error": "..."}. Whatever Synapse raises makes it not accept the event.
"""

import json
import sys

import synapse.event_auth
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.events import make_event_from_dict
from synapse.federation.federation_base import event_from_pdu_json

V12 = KNOWN_ROOM_VERSIONS["12"]


class Store:
    """Stands for Synapse's database."""

    def __init__(self, events):
        self.events = events

    async def get_events(self, event_ids, **_):
        return {i: self.events[i] for i in event_ids if i in self.events}


def run(coroutine):
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("the rules wait for something")


# The presence of signatures is checked below; their validity is checked elsewhere.
SIGNATURES = {s: {"ed25519:1": ""} for s in ("one", "two", "three")}


def judge(question):
    event = event_from_pdu_json({**question["pdu"], "signatures": SIGNATURES}, V12)
    state = [make_event_from_dict(p, V12) for p in question["state"]]
    listed = [make_event_from_dict(p, V12) for p in question["listed"]]
    store = Store({e.event_id: e for e in state + listed})
    synapse.event_auth.validate_event_for_room_version(event)
    run(synapse.event_auth.check_state_independent_auth_rules(store, event))
    synapse.event_auth.check_state_dependent_auth_rules(event, state)


def main():
    for line in sys.stdin:
        error = None
        try:
            judge(json.loads(line))
        except Exception as e:
            error = repr(e)
        print(json.dumps({"error": error}), flush=True)


if __name__ == "__main__":
    main()
