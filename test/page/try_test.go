package page_test

import (
	"testing"

	"github.com/matrix-org/dendrite/futures/test/browser"
	"github.com/matrix-org/dendrite/futures/test/rig"
)

func testTryIt(t *testing.T, b *browser.Browser, server *rig.Server) {
	dave := server.Register(t, "dave")
	v := visit(t, b, server, "try")
	v.signIn(dave)
	v.choose("#join-form [name=seconds]", "10")
	v.click("#join-form button")
	v.reads("#requests", "I have left in 10 s")
	room := dave.Do("GET", rig.Path("joined_rooms"), nil, nil).JSON.Get("joined_rooms.0").String()
	if got := dave.GetState(room, "org.example.call", dave.ID).Get("in").String(); got != "call" {
		t.Errorf("in the call: %q", got)
	}
	v.reads("#requests", "I am still here")
	v.click("#beat")
	v.Await(`/times/.test(document.querySelector("#requests").innerText)`)
	v.click("#stop-beating")
	v.reads("#call-state", "has stopped")
	future := dave.Do("GET", rig.Path("futures"), nil, nil).JSON.Get("0.response")
	v.hides(future.Get("refresh_token").String(), future.Get("cancel_token").String(), future.Get("send_token").String(), dave.Token)
	v.reads("#call-state", "The leave has arrived")
	if got := dave.GetState(room, "org.example.call", dave.ID); len(got.Map()) != 0 {
		t.Errorf("after the leave the state is %s", got)
	}
	for _, want := range []string{
		`curl -X PUT -H "Authorization: Bearer $T" "$H/rooms/$R/state/org.example.call/$ME" -d '{"in":"call"}'`,
		`"$H/rooms/$R/state_future/org.example.call/$ME?future_timeout=10000"`, `"refresh_token":"$REFRESH"`,
		`curl -X POST "$H/futures/$REFRESH"`, "/sync?since=$SINCE",
	} {
		v.reads("#requests", want)
	}
	v.picture("try.png", 900, "dark")
	v.picture("try-phone.png", phone, "light")

	// Once more in the same room, and hang up.
	v.choose("#join-form [name=room]", "")
	v.click("#join-form button")
	v.Await(`!document.querySelector("#call-buttons").hidden && document.querySelector("#requests").innerText.includes("Unless")`)
	v.click("#hang-up")
	v.reads("#call-state", "hung up")
}
