package resolver

import (
	"encoding/json"
	"flag"
	"maps"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/futures/roomserver/stateres"
	"github.com/matrix-org/dendrite/futures/test/model/resolution"
)

var pairsWanted = flag.Int("pairs", 10_000, "how many events of version 12 to judge by the library and by Synapse")

func userIDs(_ spec.RoomID, sender spec.SenderID) (*spec.UserID, error) {
	return spec.NewUserID(string(sender), true)
}

func parsed(t *testing.T, raw []byte) gomatrixserverlib.PDU {
	t.Helper()
	pdu, err := gomatrixserverlib.MustGetRoomVersion("12").NewEventFromTrustedJSON(raw, false)
	if err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	return pdu
}

// judged is an event with the library's verdict, to be compared with Synapse's.
type judged struct {
	seed    uint64
	n       int
	pdu     []byte
	verdict error
}

// The library accepts the same events of version 12 as Synapse: by their format, their auth events and the state.
func TestRulesOfVersion12(t *testing.T) {
	s := synapseBy(t, StartJudge)
	queue := make(chan judged, 200)
	go func() {
		defer close(queue)
		for seed, n := *firstSeed, 0; n < *pairsWanted; seed++ {
			h := resolution.Generate(seed)
			if h.Version != "12" {
				continue
			}
			pairs, pdus := h.Pairs(100)
			for i, p := range pairs {
				state, listed := rawEvents(p, pdus)
				if s.SendEvent(p.PDU, state, listed) != nil {
					return // ReceiveVerdict returns the error
				}
				queue <- judged{seed, i, p.PDU, verdict(t, p, state, listed)}
				n++
			}
		}
	}()
	n, accepted, differ := 0, 0, 0
	for j := range queue {
		refusal, err := s.ReceiveVerdict()
		if err != nil {
			t.Fatal(err)
		}
		if (j.verdict == nil) != (refusal == "") {
			t.Errorf("seed %d, pair %d: the library says %v, Synapse %q, of\n%s", j.seed, j.n, j.verdict, refusal, j.pdu)
			if differ++; differ == 20 {
				t.FailNow()
			}
		}
		if n++; j.verdict == nil {
			accepted++
		}
	}
	t.Logf("%d events, %d of them accepted", n, accepted)
}

func rawEvents(p resolution.Pair, pdus map[string][]byte) (state, listed []json.RawMessage) {
	for _, e := range p.State {
		state = append(state, pdus[e.ID])
	}
	listed = []json.RawMessage{}
	for _, e := range p.Listed {
		listed = append(listed, pdus[e.ID])
	}
	return state, listed
}

func verdict(t *testing.T, p resolution.Pair, state, listed []json.RawMessage) error {
	t.Helper()
	event, err := gomatrixserverlib.MustGetRoomVersion("12").NewEventFromUntrustedJSON(p.PDU)
	if err != nil {
		return err
	}
	var auth []gomatrixserverlib.PDU
	for _, raw := range listed {
		auth = append(auth, parsed(t, raw))
	}
	if err := gomatrixserverlib.CheckListedAuthEvents(event, auth); err != nil {
		return err
	}
	provider := gomatrixserverlib.NewAuthEvents(nil)
	for _, raw := range state {
		if err := provider.AddEvent(parsed(t, raw)); err != nil {
			t.Fatal(err)
		}
	}
	return gomatrixserverlib.Allowed(event, &provider, userIDs)
}

// Random rooms of version 12 are resolved by Synapse and by us with the library's rules, which the server uses.
func TestHistoriesByTheLibrary(t *testing.T) {
	s := synapse(t)
	rooms := 0
	for seed := *firstSeed; rooms < *histories; seed++ {
		h := resolution.Generate(seed)
		if h.Version != "12" {
			continue
		}
		rooms++
		if err := s.SendHistory(h, stateres.V21, true); err != nil {
			t.Fatal(err)
		}
		pdus := make(map[string]gomatrixserverlib.PDU, len(h.IDs))
		for i, id := range h.IDs {
			if pdus[id] = parsed(t, h.PDUs[i]); pdus[id].EventID() != id {
				t.Fatalf("seed %d: the library's ID is %s, the generator's %s", seed, pdus[id].EventID(), id)
			}
		}
		rules := stateres.Rules{Creators: stateres.CreatorsAboveAll, RestrictedJoins: true}
		rules.Allowed = func(e *stateres.Event, state map[stateres.Key]*stateres.Event) error {
			auth := gomatrixserverlib.NewAuthEvents(nil)
			for _, by := range state {
				if err := auth.AddEvent(pdus[by.ID]); err != nil {
					return err
				}
			}
			return gomatrixserverlib.Allowed(pdus[e.ID], &auth, userIDs)
		}
		got, err := stateres.Resolve(stateres.V21, rules, h.Create, h.Sets, h.Events, stateres.Options{})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		answer, err := s.Receive()
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if !maps.Equal(got, answer.State) {
			t.Fatalf("seed %d: ours is\n%v, Synapse's\n%v", seed, got, answer.State)
		}
	}
	t.Logf("%d rooms", rooms)
}
