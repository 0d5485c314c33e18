package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

var key = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))

// users maps every sender that is a user ID to itself.
func users(_ spec.RoomID, sender spec.SenderID) (*spec.UserID, error) {
	return spec.NewUserID(string(sender), true)
}

// event answers everything about one event.
func event(q question, a answer) {
	impl := gomatrixserverlib.MustGetRoomVersion(q.Version)
	a.askJSON("redacted", func() ([]byte, error) { return impl.RedactEventJSON(q.Raw) })
	parsers := map[string]func() (gomatrixserverlib.PDU, error){
		"untrusted": func() (gomatrixserverlib.PDU, error) { return impl.NewEventFromUntrustedJSON(q.Raw) },
		"trusted":   func() (gomatrixserverlib.PDU, error) { return impl.NewEventFromTrustedJSON(q.Raw, false) },
		"stored": func() (gomatrixserverlib.PDU, error) {
			return impl.NewEventFromTrustedJSONWithEventID("$stored:id", q.Raw, true)
		},
	}
	for name, parse := range parsers {
		var pdu gomatrixserverlib.PDU
		a.askError(name, func() (err error) {
			pdu, err = parse()
			return err
		})
		if pdu == nil {
			continue
		}
		describe(a, name+" ", pdu)
		if name != "stored" {
			alter(a, name+" ", parse)
		}
	}
}

func describe(a answer, of string, pdu gomatrixserverlib.PDU) {
	a.ask(of+"ID", pdu.EventID)
	a.ask(of+"room", func() string { return fmt.Sprintf("%q", pdu.RoomID()) })
	a.ask(of+"fields", func() string {
		stateKey := "none"
		if pdu.StateKey() != nil {
			stateKey = fmt.Sprintf("%q", *pdu.StateKey())
		}
		return fmt.Sprintf("%q %s %v %q %q %d %d %q %v", pdu.Type(), stateKey, pdu.StateKeyEquals(""), pdu.SenderID(),
			pdu.Version(), pdu.Depth(), pdu.OriginServerTS(), pdu.Redacts(), pdu.Redacted())
	})
	a.ask(of+"cites", func() string { return fmt.Sprintf("%q %q", pdu.PrevEventIDs(), pdu.AuthEventIDs()) })
	a.ask(of+"JSON", func() string { return string(pdu.JSON()) })
	a.ask(of+"parts", func() string { return string(pdu.Content()) + "|" + string(pdu.Unsigned()) })
	a.askJSON(of+"headered", pdu.ToHeaderedJSON)
	a.askJSON(of+"marshalled", func() ([]byte, error) { return json.Marshal(pdu) })
	a.ask(of+"content", func() string {
		rule, err1 := pdu.JoinRule()
		membership, err2 := pdu.Membership()
		visibility, err3 := pdu.HistoryVisibility()
		levels, err4 := pdu.PowerLevels()
		return fmt.Sprint(rule, text(err1), membership, text(err2), visibility, text(err3), levels, text(err4))
	})
	a.ask(of+"needs", func() string {
		return fmt.Sprintf("%q", gomatrixserverlib.StateNeededForAuth([]gomatrixserverlib.PDU{pdu}).Tuples())
	})
	a.askError(of+"check", func() error { return gomatrixserverlib.CheckFields(pdu) })
	a.ask(of+"signers", func() string {
		v := new(verifier)
		err := gomatrixserverlib.VerifyEventSignatures(context.Background(), pdu, v, users)
		if pdu.Version() == gomatrixserverlib.RoomVersionPseudoIDs && err != nil {
			return "refused" // it is random which signature is checked first
		}
		slices.Sort(v.servers)
		return fmt.Sprint(v.servers, text(err))
	})
}

// alter applies all operations on an event.
func alter(a answer, of string, parse func() (gomatrixserverlib.PDU, error)) {
	do := func(name string, f func(pdu gomatrixserverlib.PDU) string) {
		a.ask(of+name, func() string {
			pdu, err := parse()
			if pdu == nil {
				return text(err)
			}
			return f(pdu)
		})
	}
	whole := func(pdu gomatrixserverlib.PDU) string {
		return fmt.Sprintf("%s %s %v", pdu.EventID(), pdu.JSON(), pdu.Redacted())
	}
	do("after Redact", func(pdu gomatrixserverlib.PDU) string {
		pdu.Redact()
		return whole(pdu)
	})
	do("after Sign", func(pdu gomatrixserverlib.PDU) string {
		signed := pdu.Sign("signer", "ed25519:1", key)
		redacted, err := gomatrixserverlib.MustGetRoomVersion(pdu.Version()).RedactEventJSON(signed.JSON())
		if err == nil {
			err = gomatrixserverlib.VerifyJSON("signer", "ed25519:1", key.Public().(ed25519.PublicKey), redacted)
		}
		return whole(signed) + text(err)
	})
	do("after SetUnsigned", func(pdu gomatrixserverlib.PDU) string {
		other, err := pdu.SetUnsigned(map[string]any{"age": 1, "<>": []string{"\u2028"}})
		if err != nil {
			return text(err)
		}
		return whole(other) + string(other.Unsigned()) + whole(pdu)
	})
	do("after SetUnsignedField", func(pdu gomatrixserverlib.PDU) string {
		err := pdu.SetUnsignedField("prev_content.x", "y")
		return whole(pdu) + text(err)
	})
}

// verifier records whose signatures are requested.
type verifier struct{ servers []string }

func (v *verifier) VerifyJSONs(_ context.Context, requests []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	for _, r := range requests {
		v.servers = append(v.servers, fmt.Sprint(r.ServerName, len(r.Message) > 0, r.AtTS))
	}
	return make([]gomatrixserverlib.VerifyJSONResult, len(requests)), nil
}

// build builds an event from the fields of Raw. A random ID is left out of the answer.
func build(q question, a answer) {
	a.ask("built", func() string {
		eb := gomatrixserverlib.MustGetRoomVersion(q.Version).NewEventBuilder()
		if err := json.Unmarshal(q.Raw, eb); err != nil {
			return text(err)
		}
		pdu, err := eb.Build(time.UnixMilli(q.TS), "one", "ed25519:1", key)
		if err != nil {
			return text(err)
		}
		if q.Version == "1" || q.Version == "2" {
			return withoutChance(pdu.JSON())
		}
		return pdu.EventID() + " " + string(pdu.JSON())
	})
	a.ask("with auth events", func() string {
		eb := gomatrixserverlib.MustGetRoomVersion(q.Version).NewEventBuilder()
		if err := json.Unmarshal(q.Raw, eb); err != nil {
			return text(err)
		}
		auth := gomatrixserverlib.NewAuthEvents(parseAll(q.Version, q.Auth))
		err := eb.AddAuthEvents(&auth)
		return fmt.Sprint(eb.AuthEvents, text(err))
	})
}

// withoutChance removes the random ID of an event of room version 1 or 2, and the values computed from it.
func withoutChance(event []byte) string {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(event, &fields); err != nil {
		return text(err)
	}
	id := string(fields["event_id"])
	if !strings.HasPrefix(id, `"$`) || !strings.HasSuffix(id, `:one"`) || len(id) != len(`"$:one"`)+16 {
		return "odd ID " + id
	}
	if len(fields["hashes"]) == 0 || len(fields["signatures"]) == 0 {
		return "not hashed or signed"
	}
	delete(fields, "event_id")
	delete(fields, "hashes")
	delete(fields, "signatures")
	out, err := json.Marshal(fields)
	return text(err) + string(out)
}

var errMalformed = errors.New("malformed")

func parseAll(version gomatrixserverlib.RoomVersion, raw [][]byte) []gomatrixserverlib.PDU {
	impl := gomatrixserverlib.MustGetRoomVersion(version)
	pdus := make([]gomatrixserverlib.PDU, 0, len(raw))
	for _, r := range raw {
		pdu, err := impl.NewEventFromTrustedJSON(r, false)
		if err != nil {
			panic(errMalformed)
		}
		pdus = append(pdus, pdu)
	}
	return pdus
}
