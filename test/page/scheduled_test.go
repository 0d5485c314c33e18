package page_test

import (
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/browser"
	"github.com/matrix-org/dendrite/futures/test/rig"
)

func testScheduled(t *testing.T, b *browser.Browser, server *rig.Server) {
	alice := server.Register(t, "alice")
	room := alice.CreateRoom(map[string]any{"name": "Kitchen"})
	other := alice.CreateRoom(map[string]any{"name": "Garden"})
	v := visit(t, b, server, "scheduled")
	v.signIn(alice)

	schedule := func(text, unit, amount string) {
		v.Helper()
		v.types("[name=text]", text)
		v.choose("[name=unit]", unit)
		v.choose("[name=amount]", amount)
		v.click("#schedule-form button.main")
		v.Await(`document.querySelector("[name=text]").value === "" && !document.querySelector("#schedule-form button.main").disabled`)
	}
	const hour, second = "3600000", "1000"
	v.choose("[name=room]", room)
	schedule("Water the plants", hour, "2.5")
	v.reads("#waiting", "in Kitchen")
	v.Await(`/in 2 h [23][0-9] min/.test(document.querySelector("#waiting .due").innerText)`)
	scheduled := func() []gjson.Result {
		return alice.Do("GET", rig.UnstableDelayed, nil, nil).JSON.Get("delayed_events").Array()
	}
	first := scheduled()
	if len(first) != 1 || first[0].Get("delay_ms").Int() != 9_000_000 || first[0].Get("content.body").String() != "Water the plants" {
		t.Fatalf("the server has %v", first)
	}
	v.hides(first[0].Get("delay_id").String(), alice.Token)

	v.click("#waiting [data-key^=cancel]")
	v.reads("#ended", "Cancelled")
	if left := scheduled(); len(left) != 0 {
		t.Errorf("after the cancellation the server has %v", left)
	}

	schedule("Dinner is ready", hour, "1")
	v.click("#waiting [data-key^=send]")
	v.reads("#ended", "Dinner is ready")
	alice.WaitFor(room, rig.HasBody("Dinner is ready"), rig.Patience)

	schedule("Tea is ready", second, "1")
	alice.WaitFor(room, rig.HasBody("Tea is ready"), rig.Patience)
	v.reads("#ended", "Tea is ready") // without another click

	v.choose("[name=room]", other)
	schedule("Happy birthday, Bob!", hour, "31")
	schedule("The oven is still on", hour, "0.25")
	v.reads("#waiting", "The oven")
	v.picture("scheduled.png", 900, "light")
	v.picture("scheduled-phone.png", phone, "dark")

	// At a time: a day ahead in the browser's own zone.
	v.types("[name=text]", "<b>Tomorrow</b>")
	v.choose("[name=at]", browser.Get(v.Tab, chromedp.Evaluate[string](
		`(() => { const d = new Date(Date.now() + 86400000); return new Date(d - d.getTimezoneOffset() * 60000).toISOString().slice(0, 19); })()`)))
	v.click("#schedule-form button.main")
	v.reads("#waiting", "<b>Tomorrow</b>") // as text
	last := scheduled()
	if delay := time.Duration(last[len(last)-2].Get("delay_ms").Int()) * time.Millisecond; delay < 24*time.Hour-rig.Patience || delay > 24*time.Hour+rig.Patience {
		t.Errorf("for tomorrow the delay is %v: %v", delay, last)
	}
}
