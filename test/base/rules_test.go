package base

import (
	"flag"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"

	"github.com/matrix-org/dendrite/futures/test/model/resolution"
)

var pairsWanted = flag.Int("pairs", 10_000, "how many events of version 12 to judge by the library and by the model")

// The library's rules of version 12 agree with those of the model, which were written from the specification.
func TestRulesAgreeWithTheModel(t *testing.T) {
	v12 := gomatrixserverlib.MustGetRoomVersion("12")
	model := resolution.Allowed("12")
	var judged, allowed int
	for seed := *firstSeed; judged < *pairsWanted; seed++ {
		h := resolution.Generate(seed)
		if h.Version != "12" {
			continue
		}
		pairs, pdus := h.Pairs(100)
		for n, p := range pairs {
			if !p.Modelled {
				continue
			}
			event, err := v12.NewEventFromTrustedJSON(p.PDU, false)
			if err != nil {
				t.Fatalf("seed %d, pair %d: %v\n%s", seed, n, err, p.PDU)
			}
			auth := gomatrixserverlib.NewAuthEvents(nil)
			for _, e := range p.State {
				state, err := v12.NewEventFromTrustedJSON(pdus[e.ID], false)
				if err == nil {
					err = auth.AddEvent(state)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			got, want := gomatrixserverlib.Allowed(event, &auth, users), model(p.Event, p.State)
			if (got == nil) != (want == nil) {
				t.Errorf("seed %d, pair %d: the library says %v, the model %v, of\n%s", seed, n, got, want, p.PDU)
			}
			if judged++; got == nil {
				allowed++
			}
		}
	}
	t.Logf("%d events, %d of them allowed", judged, allowed)
}
