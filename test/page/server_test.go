package page_test

import (
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/matrix-org/dendrite/futures/test/browser"
	"github.com/matrix-org/dendrite/futures/test/rig"
)

func testServer(t *testing.T, b *browser.Browser, server *rig.Server) {
	admin, bob := server.RegisterAdmin(t, "root"), server.Register(t, "bob")
	room := bob.CreateRoom(nil)
	busy := bob.CreateRoom(nil)

	v := visit(t, b, server, "server")
	v.mayRefuse = true
	v.signIn(bob)
	v.reads("#message", "administrators")

	f, guest := live(t, server, bob, room, busy)

	v = visit(t, b, server, "server")
	v.signIn(admin)
	v.reads("#by-room", room)
	v.reads("#by-user", bob.ID)
	v.reads("#outcomes", "sent")
	v.reads("#reasons", "forbidden")
	v.reads("#lateness", "99 % within")
	v.reads("#heartbeats", "a second now")
	v.choose("[name=state]", "failed")
	v.click("#lookup-form button")
	v.reads("#found", guest.ID)
	v.hides(f.Refresh, f.Cancel, f.Send, admin.Token)

	// Cancel with preview, from the row of the room.
	waiting := func() int { return len(bob.Do("GET", rig.Path("futures"), nil, nil).JSON.Array()) }
	v.click(`#by-room [data-key="` + room + `"]`)
	v.click("[name=preview]")
	v.reads("#cancel-result", "3 events would be cancelled")
	if n := waiting(); n != 9 {
		t.Errorf("after the preview %d futures live, want 9", n)
	}
	for *screenshots { // a line that shows something
		server.UseToken(t, f.Refresh)
		time.Sleep(time.Duration(20+time.Now().Unix()%7*5) * time.Millisecond)
		if browser.Get(v.Tab, chromedp.Evaluate[int](`document.querySelector("#heartbeats polyline").points.length`)) > 20 {
			break
		}
	}
	v.picture("server.png", 900, "light")
	v.picture("server-phone.png", phone, "light")

	// Another filter needs another preview.
	v.choose("#cancel-form [name=kind]", "delayed_event")
	v.Await(`document.querySelector("[name=confirm]").hidden`)
	v.click("[name=preview]")
	v.reads("#cancel-result", "nothing would be cancelled")
	v.choose("#cancel-form [name=kind]", "")
	v.click("[name=preview]")
	v.click("[name=confirm]")
	v.reads("#cancel-result", "3 events cancelled")
	if n := waiting(); n != 6 {
		t.Errorf("after the cancellation %d futures live, want 6", n)
	}
	v.Await(`!document.querySelector("#by-room").innerText.includes("` + room + `")`)

	// One alone, from the list.
	v.choose("#lookup-form [name=state]", "live")
	v.click("#lookup-form button")
	v.click("#found td button")
	v.click("[name=preview]")
	v.reads("#cancel-result", "1 event would be cancelled")
	v.click("[name=confirm]")
	v.reads("#cancel-result", "1 event cancelled")
}

// live fills a server with what an administrator may want to see: in one room three futures that wait, some that were sent and
// one that failed; in the other six that wait, one of them with heartbeats.
func live(t *testing.T, server *rig.Server, bob *rig.User, room, busy string) (beating rig.Future, guest *rig.User) {
	for range 3 {
		bob.SendFuture(room, "m.room.message", rig.Text("later"), rig.Params{Timeout: time.Hour})
	}
	for range 5 {
		bob.SendFuture(busy, "m.room.message", rig.Text("later"), rig.Params{Timeout: time.Hour})
	}
	beating = bob.StateFuture(busy, "org.example.call", "b", map[string]any{}, rig.Params{Timeout: time.Hour})
	for range 20 {
		server.UseToken(t, beating.Refresh)
	}
	for i := range 12 {
		bob.SendFuture(room, "m.room.message", rig.Text("soon"), rig.Params{Timeout: time.Duration(i+1) * time.Millisecond})
	}
	bob.SendFuture(room, "m.room.message", rig.Text("the last"), rig.Params{Timeout: 100 * time.Millisecond})
	bob.WaitFor(room, rig.HasBody("the last"), rig.Patience)
	guest = server.Register(t, "carol")
	guest.Join(room)
	guest.StateFuture(room, "m.room.topic", "", map[string]any{"topic": "Mine"}, rig.Params{Timeout: time.Millisecond}) // without the power
	return beating, guest
}
