// Package page_test uses the web page as people do, in a real browser against a real server.
package page_test

import (
	"flag"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/matrix-org/dendrite/futures/test/browser"
	"github.com/matrix-org/dendrite/futures/test/rig"
)

var screenshots = flag.Bool("screenshots", false, "write the pictures of docs/images")

func TestMain(m *testing.M) { rig.Main(m) }

const phone = 390 // pixels

func TestPage(t *testing.T) {
	b := browser.Start(t)
	server := rig.New(t, rig.Config{})
	t.Run("signing in", func(t *testing.T) { testSignIn(t, b, server) })
	t.Run("scheduled", func(t *testing.T) { testScheduled(t, b, server) })
	t.Run("server", func(t *testing.T) { testServer(t, b, server) })
	t.Run("try it", func(t *testing.T) { testTryIt(t, b, server) })
}

func testSignIn(t *testing.T, b *browser.Browser, server *rig.Server) {
	user := server.Register(t, "somebody")
	v := visit(t, b, server, "scheduled")
	v.mayRefuse = true
	v.types("[name=user]", user.ID)
	v.types("[name=password]", "a wrong one\r")
	v.Await(`document.querySelector("#message").classList.contains("wrong")`)
	v.signIn(user)
	v.reads("#message", "no room") // what an account without rooms is told
	token := browser.Get(v.Tab, chromedp.Evaluate[string](`JSON.parse(sessionStorage.getItem("futures.session")).token`))
	v.hides(token, rig.Password)

	v.Do(chromedp.Reload())
	v.Await(`document.querySelector("#sign-in").hidden`)
	v.reads("#user", user.ID)

	// Keys change the tab.
	v.Do(chromedp.Focus(css("#tab-scheduled")), chromedp.KeyEvent("\u0303")) // arrow to the right
	v.Await(`location.hash === "#server" && document.activeElement.id === "tab-server"`)

	v.click("#sign-out")
	v.reads("#message", "signed out")
	v.Await(`sessionStorage.length === 0`)
	session := rig.User{Client: server.Client()}
	session.Token = token
	if r, err := session.Client.Do(t.Context(), "GET", rig.Path("account", "whoami"), nil, nil); err != nil || r.Status != 401 {
		t.Errorf("after signing out the token is answered %d %v", r.Status, err)
	}

	// A token that is pasted works, and is not ended.
	v.click("details summary")
	v.types("[name=token]", user.Token+"\r")
	v.reads("#user", user.ID)
	v.click("#sign-out")
	v.reads("#message", "signed out")
	user.CreateRoom(nil)
}
