"""Resolves the state of rooms with Synapse's own code: one room a line on stdin, one result a line on stdout.

A room is a JSON object:
  version    the room version, "11" or "12"
  algorithm  "2" or "2.1"
  create     the create event's ID
  pdus       the events in their federation format; Synapse computes their IDs
  ids        the IDs that the other side has computed for them; they must be the same
  events     instead of pdus and ids: events whose event_id is no hash
  rejected   the IDs of the events that were rejected
  sets       the state sets, each a list of [type, state_key, event_id]
  once       true to resolve in one way only (see below)

A result is {"state": [[type, state_key, event_id], ...], "paths": n} or {"error": "..."}.

Synapse resolves either with events that are all in its database, or with events that are only in memory. The database's
part, finding the auth difference and the conflicted subgraph, is done below in memory. For a small room both ways are
taken ("paths": 2) and must agree. Synapse's way for events in memory counts paths one by one, so it is too slow for
large rooms.
"""

import json
import sys

import synapse.event_auth  # noqa: F401 (synapse.state imports it in a circle; first here, it works)
from synapse.api.errors import SynapseError
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS, StateResolutionVersions
from synapse.events import make_event_from_dict
from synapse.state.v2 import resolve_events_with_store
from synapse.storage.databases.main.event_federation import StateDifference

MOST_STEPS = 20_000

ALGORITHMS = {"2": StateResolutionVersions.V2, "2.1": StateResolutionVersions.V2_1}


class Version:
    """A room version of Synapse, with the algorithm replaced."""

    def __init__(self, version, algorithm):
        self._version = version
        self.state_res = ALGORITHMS[algorithm]

    def __getattr__(self, name):
        return getattr(self._version, name)


class NamedEvent:
    """An event whose ID is not its hash. It has those attributes of Synapse's events that state resolution reads."""

    def __init__(self, fields, version, create, rejected):
        self.event_id = fields["event_id"]
        self.room_id = fields["room_id"]
        self.type = fields["type"]
        self.state_key = fields["state_key"]
        self.sender = fields["sender"]
        self.content = fields["content"]
        self.membership = self.content.get("membership")
        self.origin_server_ts = fields["origin_server_ts"]
        self.room_version = version
        self.rejected_reason = "rejected" if rejected else None
        self._auth = list(fields["auth_events"] or [])
        self._prev = list(fields["prev_events"] or [])
        if version.msc4291_room_ids_as_hashes and self.event_id != create:
            self._auth.append(create)

    def auth_event_ids(self):
        return self._auth

    def prev_event_ids(self):
        return self._prev

    def is_state(self):
        return True

    def get_state_key(self):
        return self.state_key


class Clock:
    async def sleep(self, duration):
        pass


class Store:
    """Stands for Synapse's database."""

    def __init__(self, events):
        self.events = events

    async def get_events(self, event_ids, allow_rejected=False):
        return {i: self.events[i] for i in event_ids if i in self.events}

    async def get_auth_chain_difference(self, room_id, sets, conflicted, additional):
        chains = [self.reachable(s) for s in sets]
        difference = set().union(*chains) - (
            set.intersection(*chains) if chains else set()
        )
        if conflicted is None:
            return StateDifference(difference, None)
        # Who can reach a conflicted event is known once all whom it cites are known.
        between = set(conflicted)
        for event_id in self.cited_first(conflicted):
            if any(a in between for a in self.events[event_id].auth_event_ids()):
                between.add(event_id)
        return StateDifference(difference, between)

    def reachable(self, ids):
        seen, todo = set(ids), list(ids)
        while todo:
            for a in self.events[todo.pop()].auth_event_ids():
                if a not in seen:
                    seen.add(a)
                    todo.append(a)
        return seen

    def cited_first(self, ids):
        order, seen, todo = [], set(), [(i, False) for i in ids]
        while todo:
            event_id, done = todo.pop()
            if done:
                order.append(event_id)
            elif event_id not in seen:
                seen.add(event_id)
                todo.append((event_id, True))
                todo.extend((a, False) for a in self.events[event_id].auth_event_ids())
        return order

    def steps(self):
        """The number of steps to follow every path from every event."""
        steps = {}
        for event_id in self.cited_first(self.events):
            cited = self.events[event_id].auth_event_ids()
            steps[event_id] = 1 + sum(steps[a] for a in cited)
        return sum(steps.values())


class EmptyStore(Store):
    """Stands for a database that has none of the events."""

    async def get_auth_chain_difference(self, room_id, sets, conflicted, additional):
        return StateDifference(set(), None if conflicted is None else set())


def run(coroutine):
    """Nothing here ever waits, so the first step is the last."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("the resolver waits for something")


def load(room):
    version = Version(KNOWN_ROOM_VERSIONS[room["version"]], room["algorithm"])
    rejected = set(room["rejected"] or [])
    events = {}
    for fields in room.get("events") or []:
        event_id = fields["event_id"]
        events[event_id] = NamedEvent(
            fields, version, room["create"], event_id in rejected
        )
    for fields, event_id in zip(room.get("pdus") or [], room.get("ids") or []):
        event = make_event_from_dict(
            fields,
            version._version,
            rejected_reason="rejected" if event_id in rejected else None,
        )
        if event.event_id != event_id:
            raise ValueError(f"the ID is {event.event_id}, not {event_id}")
        events[event_id] = event
    return version, events


def resolve(room):
    version, events = load(room)
    sets = [{(t, k): i for t, k, i in s} for s in room["sets"]]
    room_id = events[room["create"]].room_id
    store = Store(events)

    def by(event_map, store):
        return dict(
            run(
                resolve_events_with_store(
                    Clock(), room_id, version, sets, event_map, store
                )
            )
        )

    state = by(None, store)
    paths = 1
    if not room.get("once") and store.steps() <= MOST_STEPS:
        paths = 2
        other = by(dict(events), EmptyStore({}))
        if state != other:
            raise ValueError("Synapse differs from itself")
    return {"state": [[t, k, i] for (t, k), i in state.items()], "paths": paths}


def main():
    for line in sys.stdin:
        try:
            result = resolve(json.loads(line))
        except (SynapseError, ValueError, KeyError, AssertionError) as e:
            result = {"error": repr(e)}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
